"""Virtual counterparts of the tensor subclasses in which quantisation libraries keep their weights.

There are two kinds, and both run their library's own Python code on the virtual GPU:

- A parameter with methods of its own (`Params4bit` and `Int8Params` of bitsandbytes, `GGUFParameter` of diffusers),
  made by `Tensor._make_subclass`. From virtual data it becomes an instance of a class that is both the library's and
  `VirtualTensor`: `isinstance`, `to`, `quant_state` are the library's, what `super()` reaches is the virtual tensor's.
- A wrapper around several plain tensors (`TorchAOBaseTensor`, quanto's `QTensor`), made by `_make_wrapper_subclass`.
  The tensors in it are virtual; operators on the wrapper are left to its own `__torch_dispatch__`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from profiler.libraries.quantised import is_wrapper
from profiler.patching import Patches
from profiler.virtual.tensor import CUDA, EXTRA_KEYS, META, VirtualTensor, canonical
from profiler.virtual.torch_api.functions import active_gpu

_make_subclass = torch.Tensor._make_subclass
_to = torch.Tensor.to
_PLAIN = (torch.Tensor, torch.nn.Parameter)

CUDA_VERSION = "13.0"
"""The value of `torch.version.cuda` with a virtual GPU of NVIDIA's, if torch itself was built for the CPU alone."""

_LOOK_FOR_A_GPU = ("bitsandbytes", "torchao")
_ASK_FOR_PLAIN = (
    "optimum.quanto.library.qbytes_mm",
    "optimum.quanto.tensor.activations.qbytes_ops",
    "optimum.quanto.tensor.qtensor",
    "optimum.quanto.tensor.weights.qbits",
    "optimum.quanto.tensor.weights.tinygemm.qbits",
)


def install(patches: Patches) -> None:
    """Enable libraries to make and move their subclasses of virtual tensors; leave nothing virtual in the libraries."""
    _keep_tables(patches)
    patches.replace(torch.Tensor, "_make_subclass", staticmethod(_made))
    patches.replace(torch.Tensor, "to", _moved(_to))
    patches.replace(torch.Tensor, "cuda", _sent(torch.Tensor.cuda))
    if torch.version.cuda is None and torch.version.hip is None:
        # torchao and quanto choose kernels by it.
        patches.replace(torch.version, "cuda", CUDA_VERSION)
    install_plain_types(patches)


def import_libraries() -> None:
    """Import the installed libraries that look for a GPU on import, while no virtual GPU is visible.

    Otherwise diffusers would import them along with its models, that is, on the virtual GPU.
    """
    wanted = [name for name in _LOOK_FOR_A_GPU if name not in sys.modules and find_spec(name)]
    if not wanted:
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(
            logging.WARNING
        )  # torchao names each of its compiled parts that it cannot load
        try:
            for name in wanted:
                import_module(name)
        finally:
            logging.disable(before)


def install_plain_types(patches: Patches) -> None:
    """Make quanto, as far as it is imported, treat plain virtual tensors as plain tensors.

    It checks `type(data) is torch.Tensor` before it packs bits, and silently does not pack otherwise.
    """
    for name in _ASK_FOR_PLAIN if "optimum.quanto" in sys.modules else ():
        module = import_module(name)
        if "type" not in vars(module):
            patches.replace(module, "type", _plain_type)


def _plain_type(value: Any) -> type:
    kind = type(value)
    return torch.Tensor if kind is VirtualTensor else kind


def _keep_tables(patches: Patches) -> None:
    """Restore bitsandbytes' table of code books, which it fills once per process."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return
    table = functional.name2qmap
    before = dict(table)

    def put_back() -> None:
        table.clear()
        table.update(before)

    patches.afterwards(put_back)
    table.clear()


@cache
def counterpart(kind: type[torch.Tensor]) -> type[torch.Tensor]:
    """Return the class of virtual tensors that stands in for `kind`."""
    if issubclass(kind, VirtualTensor):
        return kind
    if kind in _PLAIN:
        return VirtualTensor
    return type(kind.__name__, (kind, VirtualTensor), {"__module__": kind.__module__})


def view_as(kind: type[torch.Tensor], data: VirtualTensor) -> VirtualTensor:
    """Return another view of `data`'s memory, of the class that stands in for `kind`."""
    made: Any = torch.Tensor._make_wrapper_subclass(
        counterpart(kind),
        data.shape,
        data.stride(),
        data.storage_offset(),
        dtype=data.dtype,
        device=META,
        _extra_dispatch_keys=EXTRA_KEYS,
    )
    made.storage_record, made.tag = data.storage_record, data.tag
    return made  # type: ignore[no-any-return]


def _made(
    kind: type[torch.Tensor], data: torch.Tensor, require_grad: bool = False, **options: Any
) -> torch.Tensor:
    """Replace `Tensor._make_subclass`."""
    if not isinstance(data, VirtualTensor):
        return _make_subclass(kind, data, require_grad, **options)
    made = view_as(kind, data)
    if require_grad:
        with torch._C.DisableTorchFunctionSubclass():
            made.requires_grad_()
    return made


def _moved(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `Tensor.to` that names the GPU's index, which C++ would otherwise query from a CUDA build.

    Virtual tensors have a method of their own: this one is for wrappers around them, and for real tensors.
    """

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if is_wrapper(self) or active_gpu() is not None:
            args = tuple(_indexed(arg) for arg in args)
            kwargs = {name: _indexed(value) for name, value in kwargs.items()}
        return original(self, *args, **kwargs)

    return to


def _sent(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `Tensor.cuda` that does the same for real tensors."""

    def cuda(self: torch.Tensor, device: Any = None, *args: Any, **kwargs: Any) -> Any:
        if active_gpu() is None:
            return original(self, device, *args, **kwargs)
        return torch.Tensor.to(self, CUDA if device is None else canonical(device), *args, **kwargs)

    return cuda


def _indexed(value: Any) -> Any:
    """Return the GPU's full device for "cuda", and everything else unchanged."""
    if isinstance(value, str) or (isinstance(value, torch.device) and value.type == "cuda"):
        device = canonical(value)
        return CUDA if device.type == "cuda" else device
    return value
