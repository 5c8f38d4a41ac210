"""The plans that PyTorch would try for a convolution, in its order, and what workspace each takes.

Source: `get_configs_from_heuristics`, `filterEngineConfigs` and `try_configs` in PyTorch's
aten/src/ATen/native/cudnn/Conv_v8.cpp: the configurations of the heuristics' instant mode, then those of its fallback,
without those that convert their inputs down; the first one whose plan can be made and whose workspace can be allocated
runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from profiler.cudnn.graph_api import CudnnError, GraphApi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.cudnn.convolution import Convolution

_DATA = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
_ALIGNMENT_BYTES = 32  # of `getAlignment` in Conv_v8.cpp, for blocks of PyTorch's allocator
_NOTES = 32  # more than an engine has


class Heuristics:
    """Asks one cuDNN.

    Args:
        api: the loaded library.
    """

    def __init__(self, api: GraphApi) -> None:
        self._api = api
        self._devices: dict[str, Any] = {}

    def workspaces(
        self, convolution: Convolution, gpu: dict[str, Any], *, deterministic: bool, tf32: bool
    ) -> list[int]:
        """Return the bytes that the first plan takes, then those of each that takes less than all before it.

        The last is what a convolution takes if there is little memory; empty if cuDNN has no plan for it.

        Args:
            convolution: the convolution.
            gpu: its properties, as `gpu_properties.properties` returns them.
            deterministic: whether `torch.backends.cudnn.deterministic` is set.
            tf32: whether `torch.backends.cudnn.allow_tf32` is.

        Raises:
            CudnnError: if cuDNN refuses the GPU or the convolution.
        """
        device = self._device(gpu)
        kept = self._api.made
        dropped = {"DOWN_CONVERT_INPUTS"}
        dropped |= {"NONDETERMINISTIC"} if deterministic else set()
        dropped |= {"TENSOR_CORE"} if convolution.dtype == "float32" and not tf32 else set()
        found: list[int] = []
        try:
            graph = self._graph(convolution)
            for nbytes in self._plans(graph, device, self._numbers_of(dropped)):
                if not found or nbytes < found[-1]:
                    found.append(nbytes)
                if nbytes == 0:
                    break
        finally:
            self._api.free(keep=kept)
        return found

    def _numbers_of(self, notes: set[str]) -> set[int]:
        return {self._api.enumerators[f"CUDNN_NUMERICAL_NOTE_{name}"] for name in notes}

    def _device(self, gpu: dict[str, Any]) -> Any:
        text = json.dumps(gpu, sort_keys=True)
        if text not in self._devices:
            attribute = ("DEVICEPROP_JSON_REPRESENTATION", "CHAR", text.encode())
            self._devices[text] = self._api.make("DEVICEPROP", [attribute])
        return self._devices[text]

    def _plans(self, graph: Any, device: Any, dropped: set[int]) -> Iterator[int]:
        """Yield the workspace of each plan that can be made, in bytes."""
        for mode in ("INSTANT", "FALLBACK"):
            try:
                configurations = self._configurations(graph, device, mode)
            except CudnnError:
                continue
            for configuration in configurations:
                if not dropped & self._notes(configuration):
                    try:
                        yield self._workspace(configuration, device)
                    except CudnnError:
                        continue

    def _configurations(self, graph: Any, device: Any, mode: str) -> list[Any]:
        number = self._api.enumerators[f"CUDNN_HEUR_MODE_{mode}"]
        attributes = [
            ("ENGINEHEUR_OPERATION_GRAPH", "BACKEND_DESCRIPTOR", graph),
            ("ENGINEHEUR_MODE", "HEUR_MODE", number),
            ("ENGINEHEUR_DEVICEPROP", "BACKEND_DESCRIPTOR", device),
        ]
        heuristics = self._api.make("ENGINEHEUR", attributes)
        return self._api.parts(heuristics, "ENGINEHEUR_RESULTS", "ENGINECFG")

    def _notes(self, configuration: Any) -> set[int]:
        engine = self._api.parts(configuration, "ENGINECFG_ENGINE", "ENGINE")[0]
        name = "ENGINE_NUMERICAL_NOTE"
        return set(self._api.numbers(engine, name, "NUMERICAL_NOTE", _NOTES))

    def _workspace(self, configuration: Any, device: Any) -> int:
        attributes = [
            ("EXECUTION_PLAN_ENGINE_CONFIG", "BACKEND_DESCRIPTOR", configuration),
            ("EXECUTION_PLAN_DEVICEPROP", "BACKEND_DESCRIPTOR", device),
        ]
        plan = self._api.make("EXECUTION_PLAN", attributes)
        return self._api.numbers(plan, "EXECUTION_PLAN_WORKSPACE_SIZE", "INT64", 1)[0]

    def _graph(self, one: Convolution) -> Any:
        number = self._api.enumerators
        described = [
            ("CONVOLUTION_COMP_TYPE", "DATA_TYPE", number["CUDNN_DATA_FLOAT"]),
            ("CONVOLUTION_CONV_MODE", "CONVOLUTION_MODE", number["CUDNN_CROSS_CORRELATION"]),
            ("CONVOLUTION_SPATIAL_DIMS", "INT64", len(one.stride)),
            ("CONVOLUTION_FILTER_STRIDES", "INT64", one.stride),
            ("CONVOLUTION_PRE_PADDINGS", "INT64", one.padding),
            ("CONVOLUTION_POST_PADDINGS", "INT64", one.padding),
            ("CONVOLUTION_DILATIONS", "INT64", one.dilation),
        ]
        image, weight, output = (
            self._tensor(name, shape, one)
            for name, shape in (("x", one.image), ("w", one.weight), ("y", one.output))
        )
        if one.transposed:  # the gradient for dx, so its input is dy
            kind, direction = "OPERATION_CONVOLUTION_BACKWARD_DATA", "BWD_DATA"
            tensors = {"DX": output, "W": weight, "DY": image}
        else:
            kind, direction = "OPERATION_CONVOLUTION_FORWARD", "FORWARD"
            tensors = {"X": image, "W": weight, "Y": output}
        begin = f"OPERATION_CONVOLUTION_{direction}"
        operation = self._api.make(
            kind,
            [
                *((f"{begin}_{name}", "BACKEND_DESCRIPTOR", one) for name, one in tensors.items()),
                (
                    f"{begin}_CONV_DESC",
                    "BACKEND_DESCRIPTOR",
                    self._api.make("CONVOLUTION", described),
                ),
                (f"{begin}_ALPHA", "FLOAT", 1.0),
                (f"{begin}_BETA", "FLOAT", 0.0),
            ],
        )
        return self._api.make(
            "OPERATIONGRAPH", [("OPERATIONGRAPH_OPS", "BACKEND_DESCRIPTOR", operation)]
        )

    def _tensor(self, name: str, shape: tuple[int, ...], one: Convolution) -> Any:
        number = self._api.enumerators[f"CUDNN_DATA_{_DATA[one.dtype]}"]
        attributes = [
            ("TENSOR_DATA_TYPE", "DATA_TYPE", number),
            ("TENSOR_DIMENSIONS", "INT64", shape),
            ("TENSOR_STRIDES", "INT64", strides(shape, one.layout)),
            ("TENSOR_UNIQUE_ID", "INT64", ord(name)),
            ("TENSOR_BYTE_ALIGNMENT", "INT64", _ALIGNMENT_BYTES),
        ]
        return self._api.make("TENSOR", attributes)


def strides(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Return the strides of a whole tensor, in elements; those of dimensions of size 1 as PyTorch corrects them.

    Source: `fixSizeOneDimStride` in PyTorch's aten/src/ATen/native/cudnn/Conv_v8.cpp.

    Example:
        >>> strides((1, 3, 4, 5), "nchw"), strides((1, 3, 4, 5), "nhwc")
        ((60, 20, 5, 1), (60, 1, 15, 3))
    """
    order = [0, *range(1, len(shape))] if layout == "nchw" else [0, *range(2, len(shape)), 1]
    found = [0] * len(shape)
    step = 1
    for dim in reversed(order):
        found[dim] = step
        step *= shape[dim]
    return tuple(found)
