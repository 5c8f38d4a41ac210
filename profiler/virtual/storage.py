"""The memory behind virtual tensors: one record per storage, freed by reference count as torch frees its own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.allocator.pinned import PinnedBlock
    from profiler.virtual.device import Device

_FIRST_ADDRESS = 1 << 44
_CUDA = torch.device("cuda", 0)
_addresses = count(_FIRST_ADDRESS, 1 << 41)


class Storage:
    """Bytes on one device. Views share it; when the last one is gone, it is freed.

    Attributes:
        gpu: the virtual GPU whose memory it counts in.
        device: its device.
        nbytes: its size, before rounding.
        pinned: whether it is page-locked host memory.
        real: its bytes, while they are small and known; else None.
        block: its block on the GPU; None on other devices and for an empty one.
        pinned_block: its block in pinned memory; None elsewhere and for an empty one.
        routing: (experts, experts per token) if it holds the experts that each token goes to.
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
        self, gpu: Device, device: torch.device, nbytes: int, pinned: bool = False
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
        elif device.type == "cpu" and nbytes:
            gpu.host.take(nbytes)

    @classmethod
    def over(cls, gpu: Device, block: Block) -> Storage:
        """Return a storage on the GPU over a block that was allocated for it."""
        storage = cls(gpu, _CUDA, 0)
        storage.block, storage.nbytes = block, block.requested
        return storage

    @property
    def address(self) -> int:
        """A virtual address: unique among live storages, 0 on `meta` and for empty ones, as in torch."""
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
        elif self.device.type == "cpu" and self.nbytes:
            self.gpu.host.give(self.nbytes)


class Holder(NamedTuple):
    """A stand-in for a tensor of which only the storage is needed."""

    storage_record: Storage
