"""PyTorch's caching allocator for pinned host memory. It knows nothing of tensors.

A block is rounded up to a power of two and stays pinned once freed, to serve the next request of its size class. A
block that a non-blocking copy used is free again once the copy's stream has passed the copy. Blocks are neither split
nor merged.

Source: `CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h, as torch 2.13.0 installs it; the reserved
segment is `get_reserve_segment` in aten/src/ATen/cuda/CachingHostAllocator.cpp, read in a copy of another date.
"""

from __future__ import annotations

from collections import deque

from profiler.allocator.clock import Clock
from profiler.allocator.settings import Settings
from profiler.allocator.statistics import Stat

_SEGMENT_STEP_BYTES = 4096  # `PinnedReserveSegment::allocate`


class PinnedBlock:
    """A piece of pinned memory.

    Attributes:
        nbytes: its rounded size.
        inside: whether it lies in the reserved segment, which is never given back.
        streams: the streams that copied from or to it since it was handed out.
        waits: the number of those streams that are not done yet, once it is freed.
    """

    __slots__ = ("inside", "nbytes", "streams", "waits")

    def __init__(self, nbytes: int, *, inside: bool) -> None:
        self.nbytes = nbytes
        self.inside = inside
        self.streams: set[int] = set()
        self.waits = 0


class PinnedAllocator:
    """The caching allocator of pinned memory.

    Args:
        settings: the `pinned_*` keys of `PYTORCH_CUDA_ALLOC_CONF`.
        clock: tells when streams are done.

    Attributes:
        pinned_bytes: the bytes that the process has page-locked: blocks in use, cached blocks, the reserved segment.
        allocated_bytes: the bytes of all blocks, cached ones included; PyTorch's name.
        active_bytes: the bytes of the blocks in use.
        allocations, active_requests: the number of all blocks, and of those in use.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.pinned_bytes = 0
        self.allocations, self.allocated_bytes = Stat(), Stat()
        self.active_requests, self.active_bytes = Stat(), Stat()
        self._settings = settings
        self._clock = clock
        self._cached: dict[int, list[PinnedBlock]] = {}
        self._events: deque[tuple[float, PinnedBlock]] = deque()
        self._segment_bytes = 0  # left in the reserved segment
        self._reserved = False

    def rounded(self, nbytes: int) -> int:
        """Return the size of the block for `nbytes`: the next power of two, unless the settings limit that."""
        settings = self._settings
        most = min(settings.pinned_max_round_bytes, settings.pinned_max_cached_bytes)
        return round_pinned(nbytes) if nbytes <= most else nbytes

    def allocate(self, nbytes: int) -> PinnedBlock | None:
        """Return a block for `nbytes`, a cached one if there is one; None for 0 bytes."""
        if not nbytes:
            return None
        self._process_events()
        size = self.rounded(nbytes)
        # Sizes that were not rounded share the list of their power of two, and PyTorch does not compare them.
        cached = self._cached.get(_size_class(size))
        block = cached.pop() if cached else self._new(size)
        self.active_requests.change(1)
        self.active_bytes.change(size)
        return block

    def record(self, block: PinnedBlock, stream: int) -> None:
        """Keep `block` from being reused, once freed, before `stream` has finished its work up to now."""
        block.streams.add(stream)

    def free(self, block: PinnedBlock) -> None:
        """Take a block back."""
        if not block.streams:
            self._retire(block)
            return
        block.waits = len(block.streams)
        self._events.extend((self._clock.at(stream), block) for stream in sorted(block.streams))
        block.streams = set()

    def empty_cache(self) -> None:
        """Unpin every block that is not in use."""
        self._process_events()
        for blocks in self._cached.values():
            for block in blocks:
                self._destroy(block)
        self._cached.clear()

    def _new(self, size: int) -> PinnedBlock:
        if not self._reserved:
            self._reserved = True
            self._segment_bytes = self._settings.pinned_reserve_bytes
            self.pinned_bytes += self._segment_bytes
        step = -(-size // _SEGMENT_STEP_BYTES) * _SEGMENT_STEP_BYTES
        inside = step <= self._segment_bytes
        if inside:
            self._segment_bytes -= step
        else:
            self.pinned_bytes += size
        self.allocations.change(1)
        self.allocated_bytes.change(size)
        return PinnedBlock(size, inside=inside)

    def _process_events(self) -> None:
        """Retire the freed blocks whose streams are done by now, up to the first one that is not."""
        now = self._clock.host
        while self._events and self._events[0][0] <= now:
            _, block = self._events.popleft()
            block.waits -= 1
            if not block.waits:
                self._retire(block)

    def _retire(self, block: PinnedBlock) -> None:
        self.active_requests.change(-1)
        self.active_bytes.change(-block.nbytes)
        if block.nbytes > self._settings.pinned_max_cached_bytes:
            self._destroy(block)
        else:
            self._cached.setdefault(_size_class(block.nbytes), []).append(block)

    def _destroy(self, block: PinnedBlock) -> None:
        if not block.inside:
            self.pinned_bytes -= block.nbytes
        self.allocations.change(-1)
        self.allocated_bytes.change(-block.nbytes)

    def stats(self) -> dict[str, object]:
        """Return what `torch.cuda.host_memory_stats_as_nested_dict` returns; times are unknown, hence 0."""
        unknown = dict.fromkeys(("total", "max", "min", "count", "avg"), 0)
        return {
            "allocations": self.allocations.figures(),
            "allocated_bytes": self.allocated_bytes.figures(),
            "active_requests": self.active_requests.figures(),
            "active_bytes": self.active_bytes.figures(),
            "num_host_alloc": self.allocations.figures()["allocated"],
            "num_host_free": self.allocations.figures()["freed"],
            "host_alloc_time": dict(unknown),
            "host_free_time": dict(unknown),
        }

    def reset_peak(self) -> None:
        """Start new peaks from the present values."""
        for stat in self._all():
            stat.reset_peak()

    def reset_accumulated(self) -> None:
        """Reset the totals of what was allocated and freed."""
        for stat in self._all():
            stat.reset_accumulated()

    def _all(self) -> tuple[Stat, ...]:
        return (
            self.allocations,
            self.allocated_bytes,
            self.active_requests,
            self.active_bytes,
        )


def round_pinned(nbytes: int) -> int:
    """Return the size of a pinned block for `nbytes` by default: the next power of two.

    Source: `CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h, torch 2.13.0.
    """
    return 1 << (nbytes - 1).bit_length() if nbytes > 0 else 0


def _size_class(nbytes: int) -> int:
    return (nbytes - 1).bit_length()
