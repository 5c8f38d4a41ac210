"""The packing of tensors into pinned memory.

PyTorch rounds each pinned block up to a power of two (`CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h,
torch 2.13.0), so tensors pinned one by one take half as much again. Packed into a few chunks whose sizes are powers of
two, they take little more than their own size. Both the hooks that pin and the planner that counts RAM use this module.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

from profiler.allocator.pinned import round_pinned
from profiler.allocator.settings import round_block

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHOLE_BYTES = 1 << 20
"""A rest below this goes into one chunk; what that wastes does not matter."""


class Chunk(NamedTuple):
    """One pinned block."""

    nbytes: int  # a power of two
    indices: tuple[int, ...]  # of the tensors in it, one after the other, each aligned


def aligned(nbytes: int) -> int:
    """Return the bytes of a tensor in a chunk, rounded as in the caching allocator so that copies are aligned."""
    return round_block(nbytes)


def chunks(sizes: Sequence[int]) -> tuple[Chunk, ...]:
    """Return the packing of tensors of these sizes in bytes; empty ones are left out.

    Each chunk is the largest power of two that the remaining tensors can fill, filled from the largest tensor down. The
    best upper limit for a chunk is found by trial: small chunks have a gap each, large ones leave more to the last.
    """
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for index, size in enumerate(sizes):
        waiting[aligned(size)].append(index)
    return tuple(
        Chunk(nbytes, tuple(waiting[size].popleft() for size, count in taken for _ in range(count)))
        for nbytes, taken in _best(sizes)
    )


def pinned_bytes(sizes: Sequence[int]) -> int:
    """Return the pinned memory that tensors of these sizes in bytes take."""
    return sum(nbytes for nbytes, _ in _best(sizes))


_Packing = list[tuple[int, list[tuple[int, int]]]]
"""Chunks: the size of each, and pairs of tensor size and count for what is in it."""


def _best(sizes: Sequence[int]) -> _Packing:
    counts = Counter(aligned(size) for size in sizes if size)
    if not counts:
        return []
    largest, total = (
        round_pinned(max(counts)),
        round_pinned(sum(size * count for size, count in counts.items())),
    )
    packings = []
    while largest <= total:
        packings.append(_packed(counts, largest))
        largest *= 2
    return min(packings, key=lambda packing: (sum(nbytes for nbytes, _ in packing), len(packing)))


def _packed(counts: Counter[int], most: int) -> _Packing:
    """Pack tensors into chunks of at most `most` bytes; those of equal size go one after another."""
    left = dict(sorted(counts.items(), reverse=True))
    rest = sum(size * count for size, count in left.items())
    made: _Packing = []
    while left:
        nbytes = free = min(max(_size(rest), round_pinned(next(iter(left)))), most)
        taken = []
        for size in list(left):
            count = min(left[size], free // size)
            if count:
                taken.append((size, count))
                free -= size * count
                left[size] -= count
                if not left[size]:
                    del left[size]
        rest -= nbytes - free
        made.append((nbytes, taken))
    return made


def _size(rest: int) -> int:
    """Return the chunk size for a rest: the power of two above if that wastes little, else the one below."""
    above = round_pinned(rest)
    return above if rest <= _WHOLE_BYTES or above - rest <= above // 64 else above // 2
