"""How tensors are packed into pinned memory.

PyTorch rounds each pinned block up to a power of two (`CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h,
torch 2.13.0): tensors pinned one by one take half as much again. Packed into few chunks whose sizes are powers of two
they take little more than they hold. The hooks that pin and the planner that counts RAM both ask this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT_BYTES = 512
"""Where a tensor may begin in a chunk: as in the caching allocator, so that any dtype and any copy is aligned."""

_WHOLE_BYTES = 1 << 20
"""A rest below this goes into one chunk: what it wastes does not count."""


class Chunk(NamedTuple):
    """One pinned block."""

    nbytes: int  # a power of two
    indices: tuple[int, ...]  # of the tensors in it, one after the other, each aligned


def aligned(nbytes: int) -> int:
    """Return what a tensor of `nbytes` takes in a chunk."""
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def chunks(sizes: Sequence[int]) -> tuple[Chunk, ...]:
    """Return how tensors of these sizes in bytes are packed; empty ones are left out.

    Each chunk is the largest power of two that what is left can fill, filled from the largest tensor down. How large
    a chunk may be is tried out: small chunks have a gap each, large ones leave more to the last.
    """
    order = sorted((i for i, size in enumerate(sizes) if size), key=lambda i: (-sizes[i], i))
    room = {index: aligned(sizes[index]) for index in order}
    if not order:
        return ()
    largest, total = _up(room[order[0]]), _up(sum(room.values()))
    packings = []
    while largest <= total:
        packings.append(_packed(order, room, largest))
        largest *= 2
    return min(packings, key=lambda packing: (sum(chunk.nbytes for chunk in packing), len(packing)))


def pinned_bytes(sizes: Sequence[int]) -> int:
    """Return what tensors of these sizes in bytes take in pinned memory."""
    return sum(chunk.nbytes for chunk in chunks(sizes))


def _packed(order: list[int], room: dict[int, int], most: int) -> tuple[Chunk, ...]:
    """Pack the tensors of `order` into chunks of at most `most` bytes."""
    made, left = [], order
    while left:
        rest = sum(room[index] for index in left)
        nbytes = min(max(_size(rest), _up(room[left[0]])), most)
        taken, left = _filled(left, room, nbytes)
        made.append(Chunk(nbytes, tuple(taken)))
    return tuple(made)


def _filled(left: list[int], room: dict[int, int], nbytes: int) -> tuple[list[int], list[int]]:
    """Return which tensors go into a chunk of `nbytes`, and which are left."""
    taken, passed, free = [], [], nbytes
    for index in left:
        if room[index] <= free:
            taken.append(index)
            free -= room[index]
        else:
            passed.append(index)
    return taken, passed


def _size(rest: int) -> int:
    """Return the chunk for a rest: the power of two above where that wastes little, else the one below."""
    above = _up(rest)
    return above if rest <= _WHOLE_BYTES or above - rest <= above // 64 else above // 2


def _up(nbytes: int) -> int:
    return 1 << (nbytes - 1).bit_length()
