"""The memory behind virtual tensors: one record a storage, freed by reference count as torch frees its own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch

from profiler.virtual.pinned import PinnedAllocator

if TYPE_CHECKING:
    from profiler.virtual.allocator_blocks import Block
    from profiler.virtual.allocator_settings import Settings
    from profiler.virtual.clock import Clock
    from profiler.virtual.gpu import VirtualGPU
    from profiler.virtual.pinned import PinnedBlock

_FIRST_ADDRESS = 1 << 44
_CUDA = torch.device("cuda", 0)
_addresses = count(_FIRST_ADDRESS, 1 << 41)


class Storage:
    """Bytes on one device. Views share it; the last one to go frees it.

    Attributes:
        gpu: whose memory it is counted in.
        device: where it is.
        nbytes: its size, before rounding.
        pinned: whether it is page-locked host memory.
        real: its bytes, while they are small and known; else None.
        block: where it is on the card; None elsewhere and for an empty one.
        pinned_block: where it is in pinned memory; None elsewhere and for an empty one.
        routing: where it holds which experts each token goes to: (experts, experts a token).
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "block",
        "device",
        "gpu",
        "nbytes",
        "pinned",
        "pinned_block",
        "real",
        "routing",
    )

    def __init__(
        self, gpu: VirtualGPU, device: torch.device, nbytes: int, pinned: bool = False
    ) -> None:
        self.gpu = gpu
        self.device = device
        self.nbytes = nbytes
        self.pinned = pinned
        self.real: torch.UntypedStorage | None = None
        self.routing: tuple[int, int] | None = None
        self._address = 0
        self.block: Block | None = None
        self.pinned_block: PinnedBlock | None = None
        if device.type == "cuda":
            self.block = gpu.allocate(nbytes)
        elif pinned:
            self.pinned_block = gpu.host.pin(nbytes)
        elif device.type == "cpu":
            gpu.host.take(nbytes)

    @classmethod
    def over(cls, gpu: VirtualGPU, block: Block) -> Storage:
        """Return a storage on the card over a block that was allocated for it."""
        storage = cls(gpu, _CUDA, 0)
        storage.block, storage.nbytes = block, block.requested
        return storage

    @property
    def address(self) -> int:
        """A virtual address: unique among live storages, 0 on `meta` and for empty ones, as torch has it."""
        if self.block is not None:
            return self.block.address
        if not self._address and self.nbytes and self.device.type != "meta":
            self._address = next(_addresses)
        return self._address

    def __del__(self) -> None:
        if self.block is not None:
            self.gpu.allocator.free(self.block)
        elif self.pinned_block is not None:
            self.gpu.host.pinned.free(self.pinned_block)
        elif self.device.type == "cpu":
            self.gpu.host.give(self.nbytes)


class HostMemory:
    """Bytes of virtual tensors in the computer's own memory, pageable and pinned.

    Pageable memory is counted as it is asked for: neither Python nor libraries, nor what `malloc` keeps back.

    Attributes:
        pageable_bytes: what storages in pageable memory take.
        pinned: the allocator of the rest.
        peak_pageable_bytes, peak_pinned_bytes: the most of either so far.
        peak_bytes: the most of both together since `take_peak` was last called.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.pinned = PinnedAllocator(settings, clock)
        self.pageable_bytes = 0
        self.peak_pageable_bytes = 0
        self.peak_pinned_bytes = 0
        self.peak_bytes = 0

    @property
    def pinned_bytes(self) -> int:
        """What is page-locked, freed blocks that PyTorch keeps included."""
        return self.pinned.pinned_bytes

    @property
    def total_bytes(self) -> int:
        """What is taken now, both kinds together."""
        return self.pageable_bytes + self.pinned.pinned_bytes

    def take(self, nbytes: int) -> None:
        """Count pageable memory in."""
        self.pageable_bytes = pageable = self.pageable_bytes + nbytes
        if pageable > self.peak_pageable_bytes:
            self.peak_pageable_bytes = pageable
        if pageable + self.pinned.pinned_bytes > self.peak_bytes:
            self.peak_bytes = pageable + self.pinned.pinned_bytes

    def give(self, nbytes: int) -> None:
        """Count it out again."""
        self.pageable_bytes -= nbytes

    def touch(self, nbytes: int) -> None:
        """Count pageable memory that is given back at once."""
        self.take(nbytes)
        self.give(nbytes)

    def pin(self, nbytes: int) -> PinnedBlock | None:
        """Take pinned memory."""
        block = self.pinned.allocate(nbytes)
        self.peak_pinned_bytes = max(self.peak_pinned_bytes, self.pinned_bytes)
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)
        return block

    def record(self, storage: Storage, stream: int) -> None:
        """Keep a pinned storage from being reused, once freed, before `stream` has copied it."""
        if storage.pinned_block is not None:
            self.pinned.record(storage.pinned_block, stream)

    def take_peak(self) -> int:
        """Return the most bytes since the last call, and begin anew."""
        peak, self.peak_bytes = self.peak_bytes, self.total_bytes
        return peak
