"""The memory behind virtual tensors: one record a storage, freed by reference count as torch frees its own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from profiler.virtual.allocator_blocks import Block
    from profiler.virtual.gpu import VirtualGPU

_FIRST_ADDRESS = 1 << 44
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
    """

    __slots__ = ("__weakref__", "_address", "block", "device", "gpu", "nbytes", "pinned", "real")

    def __init__(
        self, gpu: VirtualGPU, device: torch.device, nbytes: int, pinned: bool = False
    ) -> None:
        self.gpu = gpu
        self.device = device
        self.nbytes = nbytes
        self.pinned = pinned
        self.real: torch.UntypedStorage | None = None
        self._address = 0
        self.block: Block | None = None
        if device.type == "cuda":
            self.block = gpu.allocate(nbytes)
        elif device.type == "cpu":
            gpu.host.allocate(nbytes, pinned)

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
        elif self.device.type == "cpu":
            self.gpu.host.free(self.nbytes, self.pinned)


class HostMemory:
    """Bytes of virtual tensors in the computer's own memory, pageable and pinned.

    Pinned blocks are rounded up to a power of two.
    Source: `CachingHostAllocatorImpl::allocate` in PyTorch's aten/src/ATen/core/CachingHostAllocator.h.
    """

    def __init__(self) -> None:
        self.pageable_bytes = 0
        self.pinned_bytes = 0
        self.peak_pinned_bytes = 0

    def allocate(self, nbytes: int, pinned: bool) -> None:
        """Count a new host storage."""
        if pinned:
            self.pinned_bytes += round_pinned(nbytes)
            self.peak_pinned_bytes = max(self.peak_pinned_bytes, self.pinned_bytes)
        else:
            self.pageable_bytes += nbytes

    def free(self, nbytes: int, pinned: bool) -> None:
        """Count it out again."""
        if pinned:
            self.pinned_bytes -= round_pinned(nbytes)
        else:
            self.pageable_bytes -= nbytes


def round_pinned(nbytes: int) -> int:
    """Return what a pinned block of `nbytes` takes: the next power of two."""
    return 1 << (nbytes - 1).bit_length() if nbytes > 0 else 0
