"""The memory layout of the results of pointwise operators, corrected if torch's Python meta functions get it wrong.

For operands of several shapes (a number is one without dimensions) or layouts, TensorIterator leaves dimensions of size
1 where the first operand has them; the meta functions put them outermost. One picture whose attention was transposed
then looks like channels last, which it does not on a GPU, so that later convolutions would be mistaken for others.

Source: `TensorIteratorBase::reorder_dimensions` and `fast_set_up` in PyTorch's aten/src/ATen/TensorIterator.cpp.
"""

from __future__ import annotations

from typing import Any

import torch


def laid_out(func: Any, args: tuple[Any, ...], result: Any) -> Any:
    """Return the result of `func` on `meta` tensors, with the strides that C++ gives it."""
    if torch.Tag.pointwise not in func.tags or func._schema.is_mutable:
        return result
    operands = _operands(func, args)
    first = next((one for one in operands if isinstance(one, torch.Tensor) and one.dim()), None)
    if first is None or not isinstance(result, torch.Tensor) or first.shape != result.shape:
        return result
    if all(isinstance(one, torch.Tensor) and _alike(one, first) for one in operands):
        return result
    pairs = zip(result.shape, result.stride(), first.stride(), strict=True)
    if all(size == 1 or own == others for size, own, others in pairs):
        return result.as_strided(result.shape, first.stride())
    return result


def _operands(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the operands of TensorIterator: tensors, and numbers that C++ turns into tensors (`x > 0`, `1 - x`)."""
    wraps = func._overloadname == "Scalar"
    return [
        given
        for given, declared in zip(args, func._schema.arguments, strict=False)
        if isinstance(declared.type, torch.TensorType)
        or (wraps and isinstance(declared.type, torch.NumberType))
    ]


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two operands have the same shape and layout."""
    return one.shape == other.shape and one.stride() == other.stride()
