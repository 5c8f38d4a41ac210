"""What sorting and selecting allocate besides their outputs.

Up to 4096 elements are sorted in place, beside one row of indices. Beyond that CUB sorts keys and values by digits, to
another buffer and back, which is as large as keys and values (`radix_sort_bytes`). CUB's own tables come to it, under
2 % of the buffer for sorts of a million elements: how large they are follows from a policy for each architecture, which
is not modelled.

Source: `sort_cuda_kernel` in aten/src/ATen/native/cuda/Sort.cpp (commit 07e6f4ac), `do_launch_stable_sort_kernel` in
cuda/SortStable.cu (commit 061531e8), `launch` of `mbtopk` in cuda/TensorTopK.cu, from knowledge; `alias_temporaries` in
CUB's util_temporary_storage.cuh.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.steps import Steps
from profiler.virtual.tensor import aten

MOST_IN_PLACE = 4096  # elements of a row
MANY_ROWS = 128
LONG_ROW = 1_000_000
INDEX_BYTES = 8
CUB_ALIGNMENT = 256


def radix_sort_bytes(elements: int, *sizes: int) -> int:
    """Return the bytes of CUB's buffer for keys and values of these sizes each."""
    parts = (-(-elements * size // CUB_ALIGNMENT) * CUB_ALIGNMENT for size in sizes)
    return sum(parts) + CUB_ALIGNMENT - 1


def _sort(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return _along(args[0], args[1], result[0])


def _stable_sort(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return _along(args[0], args[2], result[0])


def _along(given: torch.Tensor, dim: int, values: torch.Tensor) -> Steps:
    """Return a row of indices, or copies with the sorted dimension innermost and buffers of indices."""
    if not given.numel() or not given.dim():
        return ()
    length = given.shape[dim]
    if length <= MOST_IN_PLACE:
        return (length * INDEX_BYTES,)
    copied: list[int] = []
    if not (is_non_overlapping_and_dense_or_false(given) and given.stride(dim) == 1):
        copied.append(given.nbytes)
        inner = given.transpose(dim, -1).contiguous().transpose(dim, -1)
        if inner.stride() != values.stride():
            copied += [given.nbytes, given.numel() * INDEX_BYTES]
    return (*copied, *_sorted_rows(given.numel() // length, length, given.element_size()))


def _sorted_rows(rows: int, length: int, size: int) -> Steps:
    """Return the buffers of sorting rows of elements of so many bytes."""
    elements = rows * length
    if rows == 1 or length >= LONG_ROW:
        buffer = radix_sort_bytes(length, size, INDEX_BYTES)
        return length * INDEX_BYTES, *(buffer, -buffer) * rows
    indices = elements * INDEX_BYTES
    first = radix_sort_bytes(elements, size, INDEX_BYTES)
    if rows >= MANY_ROWS:
        return indices, first
    second = radix_sort_bytes(elements, INDEX_BYTES)
    return indices, indices, first, -first, second, -second


def _topk(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a contiguous copy, and, where several blocks select from a row, what they tell each other."""
    given = args[0]
    copied = () if given.is_contiguous() else (given.nbytes,)
    length = given.shape[args[2]] if given.dim() else 1
    rows = given.numel() // max(length, 1)
    if not _selects_by_blocks(rows, length):
        return copied
    blocks = rows * -(-length // (_items_per_thread(spec, rows * length) * _THREADS))
    word = max(given.element_size(), 4)
    return (
        *copied,
        rows * given.element_size(),  # the k-th values
        2 * rows * 4,  # how many are still to be found, in and out
        2 * rows * word,  # digits that are known, in and out
        blocks * _DIGITS * 2,  # counts of each block
        rows * _DIGITS * 4,  # their sums
        blocks * 4,  # elements before the k-th
        blocks * 4,  # elements equal to it
    )


_THREADS, _DIGITS = 256, 256
_REGISTERS, _REGISTERS_PER_THREAD = 65_536, 40
_LEAST_ITEMS, _MOST_ITEMS = 4, 64
# (most rows, least elements of a row). Source: `should_use_multiblock`.
_BY_BLOCKS = (
    (20, 20_000),
    (40, 10_000),
    (80, 8_000),
    (199, 5_000),
    (799, 3_000),
    (4_000, 800),
)


def _selects_by_blocks(rows: int, length: int) -> bool:
    return length >= next((least for most, least in _BY_BLOCKS if rows <= most), 400)


def _items_per_thread(spec: GpuSpec, elements: int) -> int:
    """Return how many elements a thread looks at. Source: `get_items_per_thread`."""
    blocks = _REGISTERS // (_REGISTERS_PER_THREAD * _THREADS)
    items = -(-elements // (spec.multi_processor_count * blocks * _THREADS))
    return max(_LEAST_ITEMS, min(items, _MOST_ITEMS))


RULES = {
    aten.sort.default: _sort,
    aten.sort.stable: _stable_sort,
    aten.topk.default: _topk,
}
