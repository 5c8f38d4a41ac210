"""Blocks of device memory, the sorted lists of free ones, and the addresses of segments.

Source: `Block`, `BlockPool` and its comparators in PyTorch's c10/cuda/CUDACachingAllocator.cpp. Torch 2.13.0 sorts free
blocks by `BlockComparatorSizeCounterAddress`, whose counter numbers the segments as they come from the driver (pull
request 183591); before, blocks of a size were sorted by address alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.allocator.statistics import StatisticsTally

_OFFSET_BITS = 40
_ORDER_BITS = _OFFSET_BITS + 32  # a segment's number before it
_FIRST_ADDRESS = 1 << 33
_LAST_ADDRESS = 1 << 44  # host addresses of virtual tensors begin here
_PAGE_BYTES = 2 << 20


class Block:
    """A piece of a segment: in use, waiting for a stream, free, or reserved address space without memory.

    Attributes:
        address, size: its address and length.
        order: among free blocks of its size: the number of its segment, then its place there.
        stream: the stream that it was reserved for; only that stream reuses it.
        pool: the pool that it belongs to.
        previous, next: its neighbours in the segment.
        free: whether it is in its pool's list of free or of unmapped blocks.
        mapped: whether it is backed by memory; always true outside expandable segments.
        segment: the expandable segment that it lies in, if any.
        requested: the bytes that were requested; the excess in `size` could not be split off.
        uses: other streams that use it.
        waits: how many of them had not finished when it was freed.
        born: the pool's count of searches when it became free; its age, for garbage collection.
    """

    __slots__ = (
        "address",
        "born",
        "free",
        "mapped",
        "next",
        "order",
        "pool",
        "previous",
        "requested",
        "segment",
        "size",
        "stream",
        "uses",
        "waits",
    )

    def __init__(
        self,
        address: int,
        size: int,
        stream: int,
        pool: Pool,
        order: int,
        segment: ExpandableSegment | None = None,
    ) -> None:
        self.address = address
        self.order = order
        self.size = size
        self.stream = stream
        self.pool = pool
        self.segment = segment
        self.previous: Block | None = None
        self.next: Block | None = None
        self.free = False
        self.mapped = True
        self.requested = 0
        self.uses: set[int] | None = None
        self.waits = 0
        self.born = 0

    @property
    def allocated(self) -> bool:
        """True if it is in use, that is, neither free nor waiting for a stream."""
        return not self.free and not self.waits

    @property
    def whole(self) -> bool:
        """True if it makes up its whole segment."""
        return self.previous is None and self.next is None

    def cut(self, size: int) -> Block:
        """Split off everything behind the first `size` bytes and return it."""
        rest = Block(
            self.address + size,
            self.size - size,
            self.stream,
            self.pool,
            self.order + size,
            self.segment,
        )
        rest.mapped = self.mapped
        rest.previous, rest.next = self, self.next
        if self.next is not None:
            self.next.previous = rest
        self.next = rest
        self.size = size
        return rest

    def absorb(self, other: Block) -> None:
        """Merge `other`, the next block, into this one; `other` is then no longer a block."""
        self.size += other.size
        self.next = other.next
        if self.next is not None:
            self.next.previous = self


class ExpandableSegment:
    """A range of addresses that is backed by memory page by page.

    Attributes:
        address: its first address.
        page_bytes: the size of its pages.
        head: its first block.
    """

    __slots__ = ("address", "head", "page_bytes")

    def __init__(
        self, address: int, nbytes: int, page_bytes: int, stream: int, pool: Pool, number: int
    ) -> None:
        self.address = address
        self.page_bytes = page_bytes
        self.head = Block(address, nbytes, stream, pool, first_order(number), self)
        self.head.mapped = False


class Pool:
    """The free blocks for small or for large requests, by stream and sorted by (size, order).

    Attributes:
        small: whether it serves requests up to 1 MiB.
        least_rest: the smallest remainder that is split off a block.
        split_below: requests of this size and more are never split off a larger block.
        tallies: its own statistics, and those of both pools together.
        searches: the number of searches so far, counted while garbage collection is on.
    """

    __slots__ = ("_lists", "_unmapped", "least_rest", "searches", "small", "split_below", "tallies")

    def __init__(
        self,
        *,
        small: bool,
        least_rest: int,
        split_below: int,
        tallies: tuple[StatisticsTally, StatisticsTally],
    ) -> None:
        self.small = small
        self.least_rest = least_rest
        self.split_below = split_below
        self.tallies = tallies
        self.searches = 0
        self._lists: dict[int, tuple[list[int], list[Block]]] = {}
        self._unmapped: dict[int, list[Block]] = {}

    def fitting(self, size: int, stream: int) -> Iterator[Block]:
        """Yield the free blocks of `stream` that hold `size`, the best fit first."""
        keys, blocks = self._lists.get(stream, ((), ()))
        for index in range(bisect_left(keys, size << _ORDER_BITS), len(keys)):
            yield blocks[index]

    def take(self, size: int, stream: int) -> Block | None:
        """Remove and return the best fit: the smallest block of `stream` that holds `size`, the first among equals."""
        if stream not in self._lists:
            return None
        keys, blocks = self._lists[stream]
        index = bisect_left(keys, size << _ORDER_BITS)
        if index == len(keys):
            return None
        del keys[index]
        block = blocks.pop(index)
        block.free = False
        return block

    def add(self, block: Block) -> None:
        """Add `block` to the free blocks."""
        try:
            keys, blocks = self._lists[block.stream]
        except KeyError:
            keys, blocks = self._lists[block.stream] = ([], [])
        key = key_of(block)
        index = bisect_left(keys, key)
        keys.insert(index, key)
        blocks.insert(index, block)
        block.free = True
        block.born = self.searches

    def remove(self, block: Block) -> None:
        """Remove `block` from the free blocks."""
        keys, blocks = self._lists[block.stream]
        index = bisect_left(keys, key_of(block))
        del keys[index], blocks[index]
        block.free = False

    def merge(self, block: Block) -> tuple[Block, int]:
        """Join `block`, in no list now, with its free neighbours; return the joined block and the number of neighbours.

        Source: `try_merge_blocks`.
        """
        merged = 0
        other = block.next
        if other is not None and other.free and other.mapped is block.mapped:
            self.drop(other)
            block.absorb(other)
            merged = 1
        other = block.previous
        if other is not None and other.free and other.mapped is block.mapped:
            self.drop(other)
            other.absorb(block)
            return other, merged + 1
        return block, merged

    def blocks(self) -> list[Block]:
        """Return the free blocks, stream by stream, the smallest first."""
        return [block for stream in sorted(self._lists) for block in self._lists[stream][1]]

    def largest(self, stream: int) -> Block | None:
        """Return the largest free block of `stream`."""
        blocks = self._lists.get(stream, ((), ()))[1]
        return blocks[-1] if blocks else None

    @property
    def tally(self) -> StatisticsTally:
        """The statistics of this pool alone."""
        return self.tallies[0]

    # -- repeating recorded requests (`allocator/net_effect.py`)

    def free_list(self, stream: int) -> tuple[list[int], list[Block]]:
        """Return the free blocks of `stream`, sorted, and their keys. Both lists are the pool's own, not copies."""
        return self._lists.setdefault(stream, ([], []))

    def carve(self, stream: int, address: int, size: int) -> Block:
        """Remove and return the block of `size` at `address`, cut from the free block of `stream` that contains it."""
        block = next(
            block
            for block in self._lists[stream][1]
            if block.address <= address and address + size <= block.address + block.size
        )
        self.remove(block)
        if block.address < address:
            before, block = block, block.cut(address - block.address)
            self.add(before)
        if block.size > size:
            self.add(block.cut(size))
        return block

    # -- address space without memory, in expandable segments

    def unmapped(self, stream: int) -> list[Block]:
        """Return the unmapped blocks of `stream`, by address."""
        return self._unmapped.get(stream, [])

    def add_unmapped(self, block: Block) -> None:
        """Add `block` to the unmapped blocks."""
        blocks = self._unmapped.setdefault(block.stream, [])
        blocks.insert(bisect_left(blocks, block.address, key=lambda other: other.address), block)
        block.free = True

    def drop(self, block: Block) -> None:
        """Remove a free `block`, mapped or not, from its list."""
        if block.mapped:
            self.remove(block)
        else:
            self._unmapped[block.stream].remove(block)
            block.free = False


def first_order(number: int) -> int:
    """Return the order of the first block of a segment with a number: a later one has a higher number."""
    return number << _OFFSET_BITS


def number_of(order: int) -> int:
    """Return the number of the segment in which a block has this order."""
    return order >> _OFFSET_BITS


def least_key(size: int) -> int:
    """Return the smallest key of free blocks that hold `size`."""
    return size << _ORDER_BITS


def key_of(block: Block) -> int:
    """Return the sort key of a free block."""
    return block.size << _ORDER_BITS | block.order


class AddressSpace:
    """Hands out ranges of virtual addresses, each from the lowest gap that holds it, in pages of 2 MiB.

    Nothing that is predicted depends on which they are.
    """

    def __init__(self) -> None:
        self._gaps: list[tuple[int, int]] = [(_FIRST_ADDRESS, _LAST_ADDRESS)]

    def reserve(self, nbytes: int) -> int:
        """Return the address of an unused range of `nbytes`."""
        length = -(-nbytes // _PAGE_BYTES) * _PAGE_BYTES
        for index, (begin, end) in enumerate(self._gaps):
            if end - begin >= length:
                self._gaps[index : index + 1] = (
                    [(begin + length, end)] if end - begin > length else []
                )
                return begin
        raise AssertionError(f"no address space left for {nbytes} bytes")

    def release(self, address: int, nbytes: int) -> None:
        """Give a range back."""
        begin, end = address, address + -(-nbytes // _PAGE_BYTES) * _PAGE_BYTES
        index = bisect_left(self._gaps, (begin, end))
        if index < len(self._gaps) and self._gaps[index][0] == end:
            end = self._gaps.pop(index)[1]
        if index and self._gaps[index - 1][1] == begin:
            index -= 1
            begin = self._gaps.pop(index)[0]
        self._gaps.insert(index, (begin, end))
