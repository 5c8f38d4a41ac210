"""Host memory of one process: pageable bytes, which are only counted, and pinned blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.allocator.pinned import PinnedAllocator

if TYPE_CHECKING:
    from profiler.allocator.clock import Clock
    from profiler.allocator.pinned import PinnedBlock
    from profiler.allocator.settings import Settings


class HostMemory:
    """Pageable and pinned bytes in the host's memory.

    Pageable memory counts as requested: Python, libraries, and what `malloc` retains are not included.

    Attributes:
        pageable_bytes: the bytes of storages in pageable memory.
        pinned: the allocator of pinned memory.
        peak_pageable_bytes, peak_pinned_bytes: the most of either so far.
        peak_bytes: the most of both together since `take_peak` was last called.
        beside_bytes: what the GPU holds, if it shares this memory; whoever changes it calls `look`.
        peak_shared_bytes: the most of that and both together so far.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.pinned = PinnedAllocator(settings, clock)
        self.pageable_bytes = 0
        self.peak_pageable_bytes = 0
        self.peak_pinned_bytes = 0
        self.peak_bytes = 0
        self.beside_bytes = 0
        self.peak_shared_bytes = 0

    @property
    def pinned_bytes(self) -> int:
        """The page-locked bytes, including freed blocks that PyTorch keeps."""
        return self.pinned.pinned_bytes

    @property
    def total_bytes(self) -> int:
        """The bytes in use now, pageable and pinned together."""
        return self.pageable_bytes + self.pinned.pinned_bytes

    def take(self, nbytes: int) -> None:
        """Add pageable memory."""
        self.pageable_bytes = pageable = self.pageable_bytes + nbytes
        if pageable > self.peak_pageable_bytes:
            self.peak_pageable_bytes = pageable
        total = pageable + self.pinned.pinned_bytes
        if total > self.peak_bytes:
            self.peak_bytes = total
        if total + self.beside_bytes > self.peak_shared_bytes:
            self.peak_shared_bytes = total + self.beside_bytes

    def give(self, nbytes: int) -> None:
        """Subtract pageable memory again."""
        self.pageable_bytes -= nbytes

    def touch(self, nbytes: int) -> None:
        """Count pageable memory that is freed at once."""
        self.take(nbytes)
        self.give(nbytes)

    def pin(self, nbytes: int) -> PinnedBlock | None:
        """Allocate pinned memory."""
        block = self.pinned.allocate(nbytes)
        self.peak_pinned_bytes = max(self.peak_pinned_bytes, self.pinned_bytes)
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)
        self.look()
        return block

    def look(self) -> None:
        """Note what host and GPU hold together."""
        shared = self.total_bytes + self.beside_bytes
        self.peak_shared_bytes = max(self.peak_shared_bytes, shared)

    def record(self, block: PinnedBlock | None, stream: int) -> None:
        """Keep a pinned block from being reused, once freed, before `stream` has copied it."""
        if block is not None:
            self.pinned.record(block, stream)

    def take_peak(self) -> int:
        """Return the most bytes since the last call, and start a new peak."""
        peak, self.peak_bytes = self.peak_bytes, self.total_bytes
        return peak
