"""The name of an operator with its arguments: dtype, shape and layout of each tensor, and every other argument.

Two calls of the same signature take the same memory. Floating-point arguments (a scale, an epsilon) change values, not
memory, and are written `_`. A tensor is written `float16[2,4,64,64]`, followed by its strides if it is not contiguous:
`float16[2,4,64,64]/16384,1,256,4`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def signature(func: Any, args: Sequence[Any]) -> str:
    """Return the signature of operator `func` with positional arguments `args`, tensors on any device."""
    return f"{func}({', '.join(map(_argument, args))})"


def every_argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of a call in the order of the operator's schema, defaults among them."""
    left = func._schema.arguments[len(args) :]
    return (*args, *(kwargs.get(one.name, one.default_value) for one in left))


def _argument(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_argument, value))}]"
    return "_" if isinstance(value, float) else str(value)


def _tensor(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = ",".join(map(str, tensor.shape))
    if tensor.is_contiguous():
        return f"{dtype}[{shape}]"
    return f"{dtype}[{shape}]/{','.join(map(str, tensor.stride()))}"
