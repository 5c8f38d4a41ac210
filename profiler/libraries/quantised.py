"""The tensors that quantised modules hold besides parameters and buffers, and the weights that their parameters hold.

Only this file knows where bitsandbytes (0.50, `nn/modules.py` and `functional.py`) keeps scales and code books:
as attributes of its parameters (`Params4bit.quant_state`, `Int8Params.SCB`) and, from the first forward on, of its
8-bit layers (`Linear8bitLt.state`), where `Module.to` does not look for them. The parameters of torchao and
quanto hold plain tensors, and report which.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

_STATES = ("code", "absmax", "offset")
_EIGHT_BIT = ("CB", "SCB")

Slot = tuple[int, str]
"""A slot that holds a tensor: the id of its owner, and a name."""


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor holds its data in other tensors."""
    return hasattr(tensor, "__tensor_flatten__")


def inner_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the plain tensors that hold a wrapper's data, opening wrappers inside it too."""
    if not is_wrapper(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    return [plain for name in names for plain in inner_tensors(getattr(tensor, name))]


def weights_in(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield the parameters and buffers of one module without its children; for a wrapper, the tensors inside it."""
    if not (module._parameters or module._buffers):
        return
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            for number, plain in enumerate(inner_tensors(tensor)):
                yield (id(module), f"{name}.{number}"), plain


def beside_weights(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield the other bitsandbytes tensors of one module without its children; its weights may be among them again."""
    for parameter in module._parameters.values():
        if _is_of_bitsandbytes(type(parameter)):  # type: ignore[arg-type]  # classes are hashable
            yield from _beside(parameter)
    if "state" in vars(
        module
    ):  # asking a module for what it has not takes longer than all else here
        yield from _attributes(module.state, _EIGHT_BIT)


def memory_of(tensor: torch.Tensor) -> int:
    """Return a number that tensors share if they use the same memory."""
    record = vars(tensor).get("storage_record")  # of a virtual tensor
    return tensor.untyped_storage()._cdata if record is None else id(record)


def elements_of(parameter: torch.Tensor) -> int:
    """Return the number of weights that a parameter holds, packed or not."""
    shape = getattr(parameter, "quant_shape", None)  # GGUF
    shape = getattr(getattr(parameter, "quant_state", None), "shape", shape)  # bitsandbytes, 4 bits
    return parameter.numel() if shape is None else prod(shape)


@cache
def _is_of_bitsandbytes(kind: Any) -> bool:
    return any(base.__module__.startswith("bitsandbytes.") for base in kind.__mro__)


def _beside(parameter: Any) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield the tensors that a parameter of bitsandbytes keeps as attributes."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield from _attributes(state, _STATES)
        if state.state2 is not None:
            yield from _attributes(state.state2, _STATES)
    elif hasattr(parameter, "SCB"):
        yield from _attributes(parameter, _EIGHT_BIT)


def _attributes(owner: Any, names: tuple[str, ...]) -> Iterator[tuple[Slot, torch.Tensor]]:
    for name in names:
        tensor = getattr(owner, name, None)
        if isinstance(tensor, torch.Tensor):
            yield (id(owner), name), tensor
