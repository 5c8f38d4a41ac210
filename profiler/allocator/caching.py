"""PyTorch's caching allocator as an engine: blocks cut from segments and kept for reuse when they are freed.

It knows nothing of tensors: only stream numbers, and a clock that tells when each stream is done.

Source: `DeviceCachingAllocator` in PyTorch's c10/cuda/CUDACachingAllocator.cpp, compared at commit 001074d2, of 2025;
each function names its counterpart there. Private pools, which CUDA graphs use, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from profiler.allocator.blocks import Block, Pool
from profiler.allocator.clock import Clock
from profiler.allocator.segments import Segments, pools_for
from profiler.allocator.settings import BLOCK_BYTES, SMALL_REQUEST_BYTES, UNLIMITED, Settings
from profiler.allocator.statistics import Note, Stat, StatisticsTally, give, retire, split, take
from profiler.allocator.stream_waits import Waits


class BlockTooLargeError(Exception):
    """A request that does not fit, even after all cached memory was released.

    Attributes:
        requested_bytes: the request, before rounding.
        segment_bytes: the segment that it needs.
    """

    def __init__(self, requested_bytes: int, segment_bytes: int) -> None:
        super().__init__(requested_bytes, segment_bytes)
        self.requested_bytes = requested_bytes
        self.segment_bytes = segment_bytes


class Allocator:
    """The caching allocator: hands out blocks and takes them back.

    Args:
        limit_bytes: the most that the driver can give.
        settings: the allocator's settings.
        clock: tells when streams are done.

    Attributes:
        segments: the segments that the driver has given.
        all: the statistics of both pools together; those of each pool are in `pools`.
        pools: the small and the large pool.
        oversize: the blocks of at least the size that is never split.
        retries: how often all cached memory was released to try again.
        failures: how often a request failed even then.
        flushes: how often cached memory was released, for whatever reason.
        busy: whether it is in the middle of a request.
        waits: the freed blocks that streams still use.
        best_fit_only: whether the free blocks alone decide which one a request gets, and by best fit.
        note: called for everything that is done while a history is recorded; else None.
    """

    def __init__(
        self, limit_bytes: int, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.all = StatisticsTally()
        self.segments = Segments(limit_bytes, self.settings, self.all)
        self.pools = self._small, self._large = pools_for(self.settings, self.all)
        self.oversize = Stat()
        self.retries = self.failures = self.flushes = 0
        self.waits = Waits(clock or Clock())
        self.note: Note | None = None
        self._late: list[Block] = []
        self.busy = False
        tallies = (self.all, *(pool.tally for pool in self.pools))
        self._stats = [
            self.oversize,
            self.segments.oversize,
            *(stat for tally in tallies for stat in tally.stats().values()),
        ]
        self._max_split_bytes = self.settings.max_split_bytes
        self._rounds_up = any(self.settings.divisions)
        self.best_fit_only = (
            self._max_split_bytes == UNLIMITED
            and not self.settings.expandable_segments
            and not self.settings.garbage_collection_threshold
        )

    # -- the four figures that are read most

    @property
    def allocated_bytes(self) -> int:
        """The bytes of the blocks in use, including remainders that could not be split off them."""
        return self.all.allocated_bytes.current

    @property
    def peak_bytes(self) -> int:
        """The highest `allocated_bytes` since `reset_peak`."""
        return self.all.allocated_bytes.peak

    @peak_bytes.setter
    def peak_bytes(self, nbytes: int) -> None:
        self.all.allocated_bytes.peak = nbytes

    @property
    def reserved_bytes(self) -> int:
        """The bytes that the driver has given."""
        return self.all.reserved_bytes.current

    @property
    def peak_reserved_bytes(self) -> int:
        """The highest `reserved_bytes` since `reset_peak`."""
        return self.all.reserved_bytes.peak

    @peak_reserved_bytes.setter
    def peak_reserved_bytes(self, nbytes: int) -> None:
        self.all.reserved_bytes.peak = nbytes

    # -- blocks

    def allocate(self, nbytes: int, stream: int = 0) -> Block:
        """Return a block for `nbytes` on `stream`: the best fit among the free ones, else from a new segment.

        Source: `malloc` and `alloc_found_block`.

        Raises:
            BlockTooLargeError: if the driver has no segment for it, even after cached memory was released.
        """
        self.busy = True
        try:
            if self.waits.queues:
                for waited in self.waits.over():
                    self._free_block(waited)
            size = self.rounded(nbytes)
            pool = self._small if size <= SMALL_REQUEST_BYTES else self._large
            block = self._cached(pool, size, stream) or self._reserved(pool, size, stream, nbytes)
            self._cut(pool, block, size)
            block.requested = nbytes
            take(pool.tallies, block.size, nbytes)
            if block.size >= self._max_split_bytes:
                self.oversize.change(1)
            if self.note is not None:
                self.note("alloc", block.address, nbytes, stream)
        finally:
            self.busy = False
            if self._late:
                self._catch_up()
        return block

    def rounded(self, nbytes: int) -> int:
        """Return the size of the block that serves `nbytes`. Source: `round_size`."""
        if self._rounds_up:
            return self.settings.round(nbytes)
        return (nbytes + BLOCK_BYTES - 1) & -BLOCK_BYTES or BLOCK_BYTES  # `round_block`, in place

    def pool_for(self, size: int) -> int:
        """Return the index of the pool that serves a rounded size. Source: `get_pool`."""
        return 0 if size <= SMALL_REQUEST_BYTES else 1

    def free(self, block: Block) -> None:
        """Take back a block; it is reused at once, or when the streams that `record_stream` named are done.

        Source: `free` and `insert_events`.
        """
        if self.busy:
            # Python's garbage collector may free in the middle of anything.
            self._late.append(block)
            return
        self.busy = True
        give(block.pool.tallies, block.size)
        if block.size >= self._max_split_bytes:
            self.oversize.change(-1)
        if self.note is not None:
            self.note("free_requested", block.address, block.requested, block.stream)
        if block.uses:
            self.waits.add(block, block.uses)
            block.uses = None
        else:
            self._free_block(block)
        self.busy = False
        if self._late:
            self._catch_up()

    def record_stream(self, block: Block, stream: int) -> None:
        """Note that `stream` uses `block`, so that the block is not reused before the stream is done.

        Source: `recordStream`.
        """
        if stream != block.stream:
            block.uses = (block.uses or set()) | {stream}

    def touch(self, nbytes: int, stream: int = 0) -> None:
        """Allocate and free at once, as a kernel does with its workspace."""
        self.free(self.allocate(nbytes, stream))

    def empty_cache(self) -> None:
        """Give every segment without a block in use back to the driver.

        Source: `emptyCache`.
        """
        self.busy = True
        self._release_cached()
        self.busy = False
        self._catch_up()

    def reset_peak(self) -> None:
        """Start new peaks from the present values."""
        for stat in self.stats():
            stat.reset_peak()

    def reset_accumulated(self) -> None:
        """Reset the totals of what was ever allocated and freed.

        Source: `resetAccumulatedStats`.
        """
        for stat in self.stats():
            stat.reset_accumulated()
        self.retries = self.failures = self.flushes = 0
        self.segments.allocations = self.segments.frees = 0

    def stats(self) -> list[Stat]:
        """Return all figures, always in the same order."""
        return self._stats

    # -- finding a block

    def _cached(self, pool: Pool, size: int, stream: int) -> Block | None:
        """Return a free block that serves the request, or None. Source: `get_free_block`."""
        if self.best_fit_only:
            return pool.take(size, stream)
        if self.segments.collects_garbage:
            pool.searches += 1
        fitting = pool.fitting(size, stream)
        block = next(fitting, None)
        if block is None:
            return None
        if self.settings.expandable_segments:
            # A block at the growing end counts with the size that it could grow to.
            for other in fitting:
                if _growable(other) >= _growable(block):
                    break
                block = other
        if self._oversize(block, size):
            return None
        pool.remove(block)
        return block

    def _oversize(self, block: Block, size: int) -> bool:
        """Tell whether `block` is kept for larger requests, since it would not be split."""
        if size < self._max_split_bytes:
            return block.size >= self._max_split_bytes
        return block.size >= size + self.settings.max_non_split_rounding_bytes

    def _reserved(self, pool: Pool, size: int, stream: int, nbytes: int) -> Block:
        """Return a block in a new segment. Source: the second half of `malloc`, and `alloc_block`."""
        segments = self.segments
        segments.collect_garbage(self._large)
        block = segments.grow(pool, size, stream)
        if block is None and segments.release_available(pool, size, stream):
            block = segments.grow(pool, size, stream)
        if block is None:
            self._release_cached()
            self.retries += 1
            block = segments.grow(pool, size, stream)
        if block is None:
            self.failures += 1
            if self.note is not None:
                self.note("oom", segments.free_bytes, size, stream)
            raise BlockTooLargeError(nbytes, segments.segment_bytes(size))
        return block

    def _cut(self, pool: Pool, block: Block, size: int) -> None:
        """Split off the part of `block` beyond `size`, if allowed. Source: `should_split`, `alloc_found_block`."""
        shared = block.previous is not None or block.next is not None
        rest = block.size - size
        if rest >= pool.least_rest and size < pool.split_below:
            pool.add(block.cut(size))
            count, change = (0, -size) if shared else (1, rest)
        elif shared:
            count, change = -1, -block.size
        else:
            return
        if block.segment is None:
            split(pool.tallies, count, change)

    def _free_block(self, block: Block) -> None:
        """Merge `block` with its free neighbours and add it to the free blocks. Source: `free_block`."""
        pool = block.pool
        retire(pool.tallies, block.size, block.requested)
        if self.note is not None:
            self.note("free_completed", block.address, block.requested, block.stream)
        size = block.size
        block, merged = pool.merge(block)
        pool.add(block)
        if block.segment is None:
            count, change = -merged, size - block.size
            if block.previous is not None or block.next is not None:
                count, change = count + 1, size
            if count or change:
                split(pool.tallies, count, change)

    def _release_cached(self) -> None:
        """Wait for all streams that delay a block, then release. Source: `release_cached_blocks`."""
        self.flushes += 1
        for block in self.waits.finish():
            self._free_block(block)
        self.segments.release_free(self._large)
        self.segments.release_free(self._small)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Defer the freeing of blocks inside the context to its end. No request may be made inside."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
            self._catch_up()

    def _catch_up(self) -> None:
        while self._late:
            self.free(self._late.pop())


def _growable(block: Block) -> int:
    """Return the size that `block` has or, at the growing end of a segment, could grow to."""
    following = block.next
    return block.size + (0 if following is None or following.mapped else following.size)
