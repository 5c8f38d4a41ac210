"""Operators of quantisation libraries, run as their own CUDA code runs them.

bitsandbytes writes a CUDA operator as a Python function that allocates with torch, calls a kernel through `ctypes`, and
finishes with torch. Those functions are loaded into a separate module here, with the kernels left out, and run on
virtual tensors: they allocate and free as they would on the GPU, including choices by architecture. The kernels
themselves only take cuBLASLt's workspace, which is left out here.

Operators that one of these libraries registers for every device in terms of torch's (`CompositeExplicitAutograd`) are
taken apart. Those of any other library are not run: they may start a kernel with invalid addresses.

Source: bitsandbytes 0.50, `_ops.py` and `backends/cuda/ops.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from profiler.patching import Patches
from profiler.virtual.tensor import VirtualTensor

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
_ASSUMED = {
    "bitsandbytes::int8_mixed_scaled_mm": (
        "no column of the activations above the threshold; each would take 2 bytes a token and 5 a feature more"
    )
}
_LIBRARIES = frozenset({"bitsandbytes", "quanto", "torchao"})


class LibraryKernels:
    """The operators outside torch's own that one virtual GPU has met."""

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._cuda: dict[str, dict[str, Callable[..., Any]]] = {}

    def find(self, func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
        """Return the function that serves a library's operator on the GPU, or None if learning it is enough."""
        if func.namespace not in _LIBRARIES or not _on_gpu(args):
            return None
        name = func.name().removesuffix(".default")
        written = self._implementations(func.namespace).get(name)
        if written is not None:
            return self._running(written, launches=True)
        everywhere = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE.name)
        if everywhere:
            return self._running(partial(func._op_dk, _COMPOSITE))
        return None

    def _running(
        self, implementation: Callable[..., Any], *, launches: bool = False
    ) -> Callable[..., Any]:
        def run(func: Any, args: Any, kwargs: Any) -> Any:
            if func.name() in _ASSUMED:
                self._gpu.values.assume(func.name(), _ASSUMED[func.name()])
            if launches:
                _check_addresses(func, (*args, *kwargs.values()))
            with self._gpu.mode():
                return implementation(*args, **kwargs)

        return run

    def _implementations(self, library: str) -> dict[str, Callable[..., Any]]:
        if library not in self._cuda:
            load = {"bitsandbytes": bitsandbytes_cuda, "quanto": quanto_cuda}.get(library, dict)
            self._cuda[library] = load()
        return self._cuda[library]


def bitsandbytes_cuda() -> dict[str, Callable[..., Any]]:
    """Return bitsandbytes' CUDA operators by name, as functions that launch no kernel.

    The functions remember the GPU that they made their choices for, so each virtual GPU needs its own.
    """
    import bitsandbytes
    from bitsandbytes import _ops, cextension

    found: dict[str, Callable[..., Any]] = {}

    def register(name: str, device: str) -> Callable[..., Any]:
        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            found[name] = function
            return function

        return keep

    path = Path(bitsandbytes.__file__).parent / "backends" / "cuda" / "ops.py"
    with Patches() as patches:
        patches.replace(_ops, "register_kernel", register)
        patches.replace(cextension, "lib", _NoLibrary())
        if not hasattr(torch._C, "_cuda_getCurrentRawStream"):
            patches.replace(torch._C, "_cuda_getCurrentRawStream", _no_stream)
        module = _executed("bitsandbytes.backends.cuda._without_kernels", path)
    module.CUBLAS_Context = SimpleNamespace(  # type: ignore[attr-defined]
        get_instance=lambda: SimpleNamespace(get_context=lambda device: None)
    )
    module._cuda_device_of = lambda tensor: nullcontext()  # type: ignore[attr-defined]
    module._get_raw_stream = _no_stream  # type: ignore[attr-defined]
    return found


def quanto_cuda() -> dict[str, Callable[..., Any]]:
    """Return the operators of quanto's CUDA extension whose results are not declared anywhere in Python.

    Source: optimum-quanto 0.2.7, marlin/fp8_marlin.cu and marlin/gptq_marlin_repack.cu of its CUDA extension.
    """
    return {"quanto::gemm_f16f8_marlin": _fp8_product, "quanto::pack_fp8_marlin": _repacked}


def _fp8_product(
    a: Tensor, weight: Tensor, scales: Tensor, workspace: Tensor, bits: int, m: int, n: int, k: int
) -> Tensor:
    return a.new_empty((m, n))


def _repacked(weight: Tensor, perm: Tensor, size_k: int, size_n: int, bits: int) -> Tensor:
    tile, per_word = 16, 32 // bits
    return weight.new_empty((size_k // tile, size_n * tile // per_word))


def _executed(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert name not in sys.modules, name
    return module


def _no_stream(index: int = 0) -> int:
    return 0


def _check_addresses(func: Any, values: tuple[Any, ...]) -> None:
    """Raise RuntimeError if a kernel would be given an address in host memory."""
    for value in values:
        if isinstance(value, VirtualTensor) and not value.is_cuda:
            raise RuntimeError(
                f"CUDA error: an illegal memory access was encountered ({func.name()} was given a tensor on "
                f"{value.device})"
            )


def _on_gpu(args: tuple[Any, ...]) -> bool:
    return any(isinstance(arg, VirtualTensor) and arg.is_cuda for arg in args)


class _NoLibrary:
    """A stand-in for the compiled library: each of its functions does nothing and reports no error."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def launch(*args: Any) -> int:
            return 0

        return launch
