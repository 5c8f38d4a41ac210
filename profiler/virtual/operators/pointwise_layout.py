"""The memory layout of results, corrected if torch's Python meta functions get it wrong.

For operands of several shapes (a number is one without dimensions) or layouts, TensorIterator leaves dimensions of size
1 where the first operand has them; the meta functions put them outermost. One picture whose attention was transposed
then looks like channels last, which it does not on a GPU, so that later convolutions would be mistaken for others.
"""

from __future__ import annotations

from typing import Any

import torch

from profiler.virtual.operators.tensor_iterator import pointwise_strides
from profiler.virtual.tensor import META, aten


def laid_out(func: Any, args: tuple[Any, ...], result: Any) -> Any:
    """Return the result of `func` on `meta` tensors, with the strides that C++ gives it."""
    if func in _CONTIGUOUS:
        return result.contiguous()
    if torch.Tag.pointwise not in func.tags or func._schema.is_mutable or func in _COPIED:
        return result
    if not isinstance(result, torch.Tensor):
        return result
    operands = [_as_tensor(one) for one in _operands(func, args)]
    if not operands or torch.broadcast_shapes(*(one.shape for one in operands)) != result.shape:
        return result
    return result.as_strided(result.shape, pointwise_strides(operands, result.shape))


_CONTIGUOUS = {
    aten.pow.Scalar,  # its output is declared without strides. Source: `pow_Scalar` in Pow.cpp
    aten.pixel_unshuffle.default,  # it copies contiguously. Source: `math_pixel_unshuffle` in PixelShuffle.cpp
}


_COPIED = {  # the layout of the result is that of a copy
    aten.clone.default,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
}


def _as_tensor(operand: Any) -> torch.Tensor:
    return operand if isinstance(operand, torch.Tensor) else torch.empty((), device=META)


def _operands(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the operands of TensorIterator: tensors, and numbers that C++ turns into tensors (`x > 0`, `1 - x`)."""
    wraps = func._overloadname == "Scalar"
    return [
        given
        for given, declared in zip(args, func._schema.arguments, strict=False)
        if isinstance(declared.type, torch.TensorType)
        or (wraps and isinstance(declared.type, torch.NumberType))
    ]
