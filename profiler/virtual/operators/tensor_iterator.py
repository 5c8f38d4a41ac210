"""How PyTorch's TensorIterator orders dimensions: the layout of a pointwise result, and the dimensions of a reduction.

Source: `compute_fast_setup_type`, `reorder_dimensions`, `coalesce_dimensions` and `allocate_or_resize_outputs` in
PyTorch's aten/src/ATen/TensorIterator.cpp; `review_reduce_result` in aten/src/ATen/native/ReduceOpsUtils.h of 2.13.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false


class Operand(NamedTuple):
    """One operand over the iteration's shape; its strides are 0 where it is broadcast or reduced."""

    strides: tuple[int, ...]
    reduced: bool = False  # the output of a reduction, whose reduced dimensions come first


class Iteration(NamedTuple):
    """Dimensions in the order in which a kernel walks over them, the fastest one first, and strides of its operands."""

    shape: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...]


def pointwise_strides(operands: Sequence[torch.Tensor], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a new result of `shape` that is computed from `operands`, numbers among them."""
    if all(one.shape == torch.Size(shape) for one in operands):
        common = _of_one_layout(operands)
        if common is not None:
            return common
    order = _order(shape, [Operand(_broadcast(one, shape)) for one in operands])
    strides = [0] * len(shape)
    step = 1
    for dim in order:
        strides[dim] = step
        step *= shape[dim]
    if order == list(reversed(range(len(shape)))):
        return contiguous_strides(shape)
    return tuple(strides)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(max(size, 1) for size in shape[dim + 1 :]) for dim in range(len(shape)))


def reduction(source: torch.Tensor, dims: Iterable[int]) -> tuple[Iteration, int]:
    """Return the iteration of reducing `dims`, output before input, and how many of its dimensions are reduced."""
    reduced = set(dims)
    kept = [1 if dim in reduced else size for dim, size in enumerate(source.shape)]
    output = [
        0 if dim in reduced else stride for dim, stride in enumerate(contiguous_strides(kept))
    ]
    operands = [Operand(tuple(output), reduced=True), Operand(source.stride())]
    order = _order(source.shape, operands)
    iteration = _coalesced(
        Iteration(
            tuple(source.shape[dim] for dim in order),
            tuple(tuple(one.strides[dim] for dim in order) for one in operands),
        )
    )
    return iteration, sum(stride == 0 for stride in iteration.operands[0])


def _of_one_layout(operands: Sequence[torch.Tensor]) -> tuple[int, ...] | None:
    """Return the strides of a result whose operands all have the same layout, or None."""
    first = operands[0]
    if all(one.is_contiguous() for one in operands):
        return contiguous_strides(first.shape)
    last = torch.channels_last
    if first.dim() == 4 and all(one.is_contiguous(memory_format=last) for one in operands):
        return tuple(torch.empty(first.shape, device="meta", memory_format=last).stride())
    if all(one.stride() == first.stride() for one in operands):
        dense = all(is_non_overlapping_and_dense_or_false(one) for one in operands)
        return tuple(first.stride()) if dense else None
    return None


def _broadcast(one: torch.Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    missing = len(shape) - one.dim()
    own = [
        0 if size == 1 != shape[missing + dim] else stride
        for dim, (size, stride) in enumerate(zip(one.shape, one.stride(), strict=True))
    ]
    return (0,) * missing + tuple(own)


def _order(shape: Sequence[int], operands: Sequence[Operand]) -> list[int]:
    """Return dimensions, the fastest first: sorted by insertion, where the first operand that can tell decides."""
    order = list(reversed(range(len(shape))))
    for index in range(1, len(order)):
        moving = index
        for other in reversed(range(index)):
            compared = _compared(shape, operands, order[other], order[moving])
            if compared > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif compared < 0:
                break
    return order


def _compared(shape: Sequence[int], operands: Sequence[Operand], one: int, other: int) -> int:
    """Return 1 if dimension `other` comes before `one`, -1 if after it, 0 if no operand can tell."""
    for operand in operands:
        strides = operand.strides[one], operand.strides[other]
        if operand.reduced and (strides[0] == 0) != (strides[1] == 0):
            return 1 if strides[1] == 0 else -1
        if 0 in strides:
            continue
        if strides[0] != strides[1]:
            return -1 if strides[0] < strides[1] else 1
        if shape[one] > shape[other]:
            return 1
    return 0


def _coalesced(given: Iteration) -> Iteration:
    """Return the iteration with neighbouring dimensions made one where every operand walks on evenly."""
    shape: list[int] = []
    operands: list[list[int]] = [[] for _ in given.operands]
    for dim, size in enumerate(given.shape):
        strides = [one[dim] for one in given.operands]
        if shape and (
            1 in (shape[-1], size)
            or all(
                shape[-1] * own[-1] == stride for own, stride in zip(operands, strides, strict=True)
            )
        ):
            if shape[-1] == 1:
                for own, stride in zip(operands, strides, strict=True):
                    own[-1] = stride
            shape[-1] *= size
            continue
        shape.append(size)
        for own, stride in zip(operands, strides, strict=True):
            own.append(stride)
    return Iteration(tuple(shape), tuple(map(tuple, operands)))
