"""Weights as stored in a diffusers folder, read from the headers of safetensors files and never from their bodies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from profiler.errors import InputError
from profiler.libraries.loading_memory import Loading, WeightFile, loading_of, one_after_the_other
from profiler.libraries.quantised import elements_of, inner_tensors, is_wrapper
from profiler.pipelines.safetensors_header import read_safetensors_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.pipelines.safetensors_header import StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}  # the dtypes that loading casts; others stay as they are
_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def pipeline_loading(
    folder: str, modules: dict[str, nn.Module], *, before: Loading | None = None
) -> Loading:
    """Return the host memory that loading a pipeline's weights with `from_pretrained` takes.

    A component without files is assumed to be stored in the dtypes that it is loaded in.

    Args:
        folder: the folder that holds the components' folders; any other text if there is none.
        modules: the components by name, in the order in which they are loaded, with the dtypes that they end up in.
        before: what loading other components took, which are passed in; None if there are none.

    Raises:
        InputError: if a file of weights cannot be read.
    """
    parts = [_component_loading(Path(folder) / name, module) for name, module in modules.items()]
    return one_after_the_other(parts if before is None else [before, *parts])


def stored_dtype(folder: Path) -> str:
    """Return the floating-point dtype of most bytes of a component's weights; "" if their files do not tell.

    Args:
        folder: the component's folder; files of a variant (`model.fp16.safetensors`) count only if there are no others.
    """
    found: Counter[str] = Counter()
    try:
        for file in _weight_files(folder) or sorted(folder.glob("*.safetensors")):
            for tensor in read_safetensors_header(file).tensors:
                found[tensor.dtype] += tensor.nbytes if tensor.dtype in _DTYPES else 0
    except InputError:  # which is reported to whoever needs the sizes
        return ""
    most = max(found, key=found.__getitem__, default="")
    return str(_DTYPES.get(most, "")).removeprefix("torch.")


def _component_loading(folder: Path, module: nn.Module) -> Loading:
    loaded = {name: _loaded(tensor) for name, tensor in _tensors_of(module)}
    files = [
        _weight_file(read_safetensors_header(file).tensors, loaded)
        for file in _weight_files(folder)
    ]
    files = files or [_file_of_what_is_there(module)]
    return loading_of(files, at_once=not type(module).__module__.startswith("diffusers"))


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers by name, tied ones under each name; quantised layers add more to `state_dict`."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


class _Loaded(NamedTuple):
    """A tensor after loading: its dtype, its host memory, and whether a file can hold it in that form."""

    dtype: torch.dtype
    host_bytes: int
    plain: bool


def _loaded(tensor: torch.Tensor) -> _Loaded:
    return _Loaded(tensor.dtype, _host_bytes(tensor), not is_wrapper(tensor) and _on_host(tensor))


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cuda"


def _host_bytes(tensor: torch.Tensor) -> int:
    return sum(part.nbytes for part in inner_tensors(tensor) if _on_host(part))


def _file_of_what_is_there(module: nn.Module) -> WeightFile:
    """Return a file that stores a component in its present form, with quantised weights in the dtype of the others.

    diffusers copies what it reads from a GGUF file, which holds weights in their final form: `load_gguf_checkpoint`.
    """
    parameters = list(module.parameters())
    stored = {id(tensor): tensor for tensor in (*parameters, *_buffers_in_files(module))}
    host_bytes = sum(map(_host_bytes, stored.values()))
    if any(hasattr(parameter, "quant_shape") for parameter in parameters):
        return WeightFile(host_bytes, host_bytes, stays=False)
    quantised = {id(one): one for one in parameters if _is_quantised(one)}
    plain = [one for key, one in stored.items() if key not in quantised]
    dtypes = [one.dtype for one in plain if one.is_floating_point()]
    usual = max(set(dtypes), key=dtypes.count, default=torch.bfloat16)
    return WeightFile(
        mapped_bytes=sum(one.nbytes for one in plain)
        + sum(elements_of(one) for one in quantised.values()) * usual.itemsize,
        copied_bytes=sum(map(_host_bytes, quantised.values())),
        stays=any(map(_on_host, plain)),
    )


def _is_quantised(parameter: torch.Tensor) -> bool:
    return is_wrapper(parameter) or not parameter.is_floating_point()


def _buffers_in_files(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the buffers that `state_dict` would hold."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                yield buffer


def _weight_files(folder: Path) -> list[Path]:
    for name in _NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise InputError(f"{str(index)!r} cannot be read: {error}") from error
            return sorted(file for name in names if (file := folder / str(name)).is_file())
        if (folder / name).is_file():
            return [folder / name]
    return []


def _weight_file(tensors: Sequence[StoredTensor], loaded: dict[str, _Loaded]) -> WeightFile:
    """Return what loading does with a file; a tensor that is stored under another name gets the most frequent dtype."""
    dtypes = [tensor.dtype for tensor in loaded.values() if tensor.plain]
    usual = max(set(dtypes), key=dtypes.count, default=torch.float32)
    mapped = copied = 0
    stays = False
    for tensor in tensors:
        stored, becomes = _DTYPES.get(tensor.dtype), loaded.get(tensor.name)
        mapped += tensor.nbytes
        if becomes is not None and not becomes.plain:
            copied += becomes.host_bytes
            continue
        wanted = usual if becomes is None else becomes.dtype
        if stored is None or stored == wanted:
            stays = True
        else:
            copied += tensor.nbytes // stored.itemsize * wanted.itemsize
    return WeightFile(mapped, copied, stays)
