"""Segments: what the caching allocator takes from the driver and gives back to it.

Source: `alloc_block`, `release_block` and related functions in PyTorch's c10/cuda/CUDACachingAllocator.cpp; each
function names its counterpart there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from profiler.allocator.blocks import (
    AddressSpace,
    Block,
    ExpandableSegment,
    Pool,
    first_order,
    number_of,
)
from profiler.allocator.settings import (
    BLOCK_BYTES,
    LARGE_STEP_BYTES,
    LEAST_OWN_SEGMENT_BYTES,
    SMALL_REQUEST_BYTES,
    SMALL_SEGMENT_BYTES,
    UNLIMITED,
    Settings,
)
from profiler.allocator.statistics import Note, Stat, StatisticsTally


def pools_for(settings: Settings, both: StatisticsTally) -> tuple[Pool, Pool]:
    """Return the small and the large pool with their split rules. Source: `should_split`."""
    rest, most = SMALL_REQUEST_BYTES + 1, settings.max_split_bytes
    if settings.expandable_segments:
        rest, most = BLOCK_BYTES, UNLIMITED
    small = Pool(
        small=True, least_rest=BLOCK_BYTES, split_below=UNLIMITED, tallies=(StatisticsTally(), both)
    )
    return small, Pool(
        small=False, least_rest=rest, split_below=most, tallies=(StatisticsTally(), both)
    )


class Segments:
    """The segments of one allocator.

    Args:
        limit_bytes: the most that the driver can give.
        settings: the allocator's settings.
        tally: the statistics of both pools.

    Attributes:
        limit_bytes: see above.
        allowed_bytes: the most that may be reserved, if a memory fraction is set.
        oversize: the segments of at least the size that is never split.
        allocations, frees: the numbers of calls to the driver.
        note: called for them while a history is recorded; else None.
        beside_bytes: returns what others hold of the memory now, the host on a GPU that shares its memory.
        driver_called: called with the bytes mapped, or given back as a negative number, by each of them; else None.
    """

    def __init__(self, limit_bytes: int, settings: Settings, tally: StatisticsTally) -> None:
        self.limit_bytes = limit_bytes
        self.allowed_bytes: int | None = None
        self.oversize = Stat()
        self.allocations = self.frees = 0
        self.note: Note | None = None
        self.beside_bytes: Callable[[], int] | None = None
        self.driver_called: Callable[[int], None] | None = None
        self._settings = settings
        self._tally = tally
        self._addresses = AddressSpace()
        self._numbers: list[int] = []  # of the segments that are there, the oldest first
        self._heads: dict[int, Block] = {}
        self._expandable: list[ExpandableSegment] = []

    def __iter__(self) -> Iterator[list[Block]]:
        """Yield the blocks of each segment in order, segments by address."""
        heads = [*self._heads.values(), *(segment.head for segment in self._expandable)]
        for head in sorted(heads, key=lambda head: head.address):
            chain = [head]
            while chain[-1].next is not None:
                chain.append(chain[-1].next)
            yield chain

    def segment_bytes(self, size: int) -> int:
        """Return the size of the segment that a block of `size` needs. Source: `get_allocation_size`."""
        if size <= SMALL_REQUEST_BYTES:
            return SMALL_SEGMENT_BYTES
        if size < LEAST_OWN_SEGMENT_BYTES:
            return self._settings.large_segment_bytes
        return -(-size // LARGE_STEP_BYTES) * LARGE_STEP_BYTES

    def grow(self, pool: Pool, size: int, stream: int) -> Block | None:
        """Return a block of at least `size` in new memory, or None. Source: `alloc_block`."""
        nbytes = self.segment_bytes(size)
        reserved = self._tally.reserved_bytes.current + nbytes
        if self.allowed_bytes is not None and reserved > self.allowed_bytes:
            return None
        if self._settings.expandable_segments:
            return self._expand(pool, size, stream) if size <= self.limit_bytes else None
        if not self._driver_has(nbytes):
            return None
        order = first_order(self._next_number())
        block = Block(self._addresses.reserve(nbytes), nbytes, stream, pool, order)
        self._heads[block.address] = block
        self._count(pool, nbytes)
        self._count_segments(pool, 1)
        self._note("segment_alloc", block.address, nbytes, stream)
        if nbytes >= self._settings.max_split_bytes:
            self.oversize.change(1)
        return block

    def release(self, block: Block) -> None:
        """Give a segment that is a single free block back to the driver. Source: `release_block`."""
        block.pool.remove(block)
        del self._heads[block.address]
        self._addresses.release(block.address, block.size)
        self._numbers.remove(number_of(block.order))
        self._count(block.pool, -block.size)
        self._count_segments(block.pool, -1)
        self._note("segment_free", block.address, block.size, block.stream)
        if block.size >= self._settings.max_split_bytes:
            self.oversize.change(-1)

    def release_free(self, pool: Pool) -> None:
        """Give back all that is wholly free: segments, and pages of expandable ones. Source: `release_blocks`."""
        for block in pool.blocks():
            if block.segment is not None:
                self._unmap(block, block.segment)
            elif block.whole:
                self.release(block)

    def release_available(self, pool: Pool, size: int, stream: int) -> bool:
        """Give back just enough oversize blocks of `stream` for `size`; return whether there were enough.

        Source: `release_available_cached_blocks`.
        """
        least = self._settings.max_split_bytes
        if least == UNLIMITED:
            return False
        wanted = max(size, least)
        enough = next(pool.fitting(wanted, stream), None)
        if enough is not None:
            self.release(enough)
            return True
        released = 0
        while released < wanted:
            largest = pool.largest(stream)
            if largest is None or largest.size < least:
                return False
            released += largest.size
            self.release(largest)
        return True

    # -- garbage collection

    @property
    def collects_garbage(self) -> bool:
        """True if old free segments are released above a threshold."""
        return self._settings.garbage_collection_threshold > 0 and self.allowed_bytes is not None

    def collect_garbage(self, pool: Pool) -> None:
        """Release free segments older than the average until the reserved bytes are below the threshold.

        Source: `garbage_collect_cached_blocks`.
        """
        if not self.collects_garbage or self.allowed_bytes is None:
            return
        threshold = int(self._settings.garbage_collection_threshold * self.allowed_bytes)
        excess = self._tally.reserved_bytes.current - threshold
        ages = {block: pool.searches - block.born for block in pool.blocks() if block.whole}
        while excess > 0 and ages:
            average = sum(ages.values()) / len(ages)
            old = [block for block, age in ages.items() if age >= average]
            for block in old:
                excess -= block.size
                del ages[block]
                self.release(block)

    # -- expandable segments

    def _expand(self, pool: Pool, size: int, stream: int) -> Block | None:
        """Return a free block of at least `size`, in no list, backed by newly mapped pages; or None.

        Source: `try_allocate_expandable_block`.
        """
        block = self._room(pool, size, stream)
        if not block.mapped:
            mapped = self._map(block, min(block.size, size))
            if mapped is None:
                return None
            block = mapped
        while block.size < size:
            assert block.next is not None
            mapped = self._map(block.next, min(block.next.size, size - block.size))
            if mapped is None:
                return None
            block = mapped
        pool.remove(block)
        return block

    def _room(self, pool: Pool, size: int, stream: int) -> Block:
        """Return the first of neighbouring free or unmapped blocks that together hold `size`, at the lowest address.

        Source: `find_expandable_block`.
        """
        for block in pool.unmapped(stream):
            first = block
            if block.previous is not None and block.previous.free:
                first = block.previous
            if _free_bytes(first) >= size:
                return first
        page = SMALL_SEGMENT_BYTES if pool.small else self._settings.large_segment_bytes
        pages = -(-self.limit_bytes * 9 // 8 // page)
        address = self._addresses.reserve(pages * page)
        number = self._next_number()
        segment = ExpandableSegment(address, pages * page, page, stream, pool, number)
        self._expandable.append(segment)
        pool.add_unmapped(segment.head)
        return segment.head

    def _map(self, block: Block, size: int) -> Block | None:
        """Map pages for the first `size` bytes of an unmapped block; return the free block that they are part of.

        Source: `map_block` and `ExpandableSegment::map`.
        """
        segment, pool = block.segment, block.pool
        assert segment is not None
        nbytes = -(-size // segment.page_bytes) * segment.page_bytes
        if not self._driver_has(nbytes):
            return None
        pool.drop(block)
        if nbytes < block.size:
            pool.add_unmapped(block.cut(nbytes))
        self._count(pool, nbytes)
        self._note("segment_map", block.address, nbytes, block.stream)
        block.mapped = True
        block, _ = pool.merge(block)
        pool.add(block)
        return block

    def _unmap(self, block: Block, segment: ExpandableSegment) -> None:
        """Unmap the pages that lie wholly in a free block. Source: `unmap_block`, `release_expandable_segment`."""
        page, offset = segment.page_bytes, block.address - segment.address
        begin = -(-offset // page) * page
        end = (offset + block.size) // page * page
        if begin >= end:
            return
        pool = block.pool
        pool.remove(block)
        if begin > offset:
            before, block = block, block.cut(begin - offset)
            pool.add(before)
        if end - begin < block.size:
            pool.add(block.cut(end - begin))
        self._count(pool, begin - end)
        self._note("segment_unmap", block.address, block.size, block.stream)
        block.mapped = False
        block, _ = pool.merge(block)
        pool.add_unmapped(block)
        if block.whole:
            pool.drop(block)
            self._expandable.remove(segment)
            self._addresses.release(segment.address, block.size)

    def _next_number(self) -> int:
        """Return a number above those of all segments that are there.

        PyTorch counts on. Here the numbers of segments that were given back come again, so that what is alike but for
        them is the same (`net_effect.py`); their order is the same either way.
        """
        number = self._numbers[-1] + 1 if self._numbers else 1
        self._numbers.append(number)
        return number

    # -- counting

    @property
    def free_bytes(self) -> int:
        """The bytes that the driver could still give."""
        free = self.limit_bytes - self._tally.reserved_bytes.current
        return free if self.beside_bytes is None else free - self.beside_bytes()

    def _driver_has(self, nbytes: int) -> bool:
        return nbytes <= self.free_bytes

    def _note(self, action: str, address: int, nbytes: int, stream: int) -> None:
        if self.note is not None:
            self.note(action, address, nbytes, stream)

    def _count(self, pool: Pool, nbytes: int) -> None:
        for tally in pool.tallies:
            tally.reserved_bytes.change(nbytes)
        if nbytes > 0:
            self.allocations += 1
        else:
            self.frees += 1
        if self.driver_called is not None:
            self.driver_called(nbytes)

    def _count_segments(self, pool: Pool, change: int) -> None:
        for tally in pool.tallies:
            tally.segment.change(change)


def _free_bytes(block: Block | None) -> int:
    """Return the number of free or unmapped bytes from `block` on."""
    nbytes = 0
    while block is not None and block.free:
        nbytes += block.size
        block = block.next
    return nbytes
