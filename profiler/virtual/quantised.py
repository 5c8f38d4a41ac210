"""What quantised modules hold besides parameters and buffers, and what their parameters stand for.

This is the file that knows where bitsandbytes (0.50, `nn/modules.py` and `functional.py`) keeps scales and code books:
as attributes of its parameters (`Params4bit.quant_state`, `Int8Params.SCB`) and, from the first forward on, of its
8-bit layers (`Linear8bitLt.state`), where `Module.to` does not look for them. The parameters of torchao and
quanto hold plain tensors, and tell which.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import nn

from profiler.virtual.subclasses import inner_tensors
from profiler.virtual.tensor import VirtualTensor

_STATES = ("code", "absmax", "offset")
_EIGHT_BIT = ("CB", "SCB")
_PLAIN = (nn.Parameter, VirtualTensor, type(None))

Slot = tuple[int, str]
"""A place that holds a tensor: the id of what has it, and a name."""


def weights_in(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield the parameters and buffers of one module without its children; of a wrapper, what is in it."""
    if not (module._parameters or module._buffers):
        return
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            for number, plain in enumerate(inner_tensors(tensor)):
                yield (id(module), f"{name}.{number}"), plain


def beside_weights(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield what else one module without its children keeps of bitsandbytes; the weights may be among it again."""
    for parameter in module._parameters.values():
        if type(parameter) not in _PLAIN:
            yield from _beside(parameter)
    if "state" in vars(
        module
    ):  # asking a module for what it has not takes longer than all else here
        yield from _attributes(module.state, _EIGHT_BIT)


def memory_of(tensor: torch.Tensor) -> int:
    """Return a number that tensors share if they look into the same memory."""
    if isinstance(tensor, VirtualTensor):
        return id(tensor.storage_record)
    return tensor.untyped_storage()._cdata


def elements_of(parameter: torch.Tensor) -> int:
    """Return how many weights a parameter stands for, packed or not."""
    shape = getattr(parameter, "quant_shape", None)  # GGUF
    shape = getattr(getattr(parameter, "quant_state", None), "shape", shape)  # bitsandbytes, 4 bits
    return parameter.numel() if shape is None else prod(shape)


def _beside(parameter: Any) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield what a parameter of bitsandbytes keeps as attributes."""
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
