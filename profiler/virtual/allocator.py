"""Device memory as an engine: blocks, their sum and its peak, and the limit. It has never heard of tensors.

Every request is rounded up to 512 bytes. Reserved memory is the high-water mark of what was allocated since the last
`empty_cache`, in the 2 MiB steps in which small segments are reserved; what fragmentation adds to it in a real run is
covered by the card's stated slack.

Source: `kMinBlockSize` and `kSmallBuffer` in PyTorch's c10/cuda/CUDACachingAllocator.cpp (v2.13.0).
"""

from __future__ import annotations

BLOCK_BYTES = 512
SEGMENT_BYTES = 2 << 20


def round_block(nbytes: int) -> int:
    """Return what a request of `nbytes` takes on the device."""
    return (nbytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES


def _round_segment(nbytes: int) -> int:
    return (nbytes + SEGMENT_BYTES - 1) // SEGMENT_BYTES * SEGMENT_BYTES


class BlockTooLargeError(Exception):
    """A request that does not fit.

    Attributes:
        requested_bytes: the request, as it was made.
    """

    def __init__(self, requested_bytes: int) -> None:
        super().__init__(requested_bytes)
        self.requested_bytes = requested_bytes


class Allocator:
    """Counts blocks against a limit.

    Attributes:
        limit_bytes: the most that may be reserved.
        allocated_bytes: the sum of the live blocks.
        peak_bytes: the highest `allocated_bytes` since `reset_peak`.
        reserved_bytes, peak_reserved_bytes: the same for reserved memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.allocated_bytes = 0
        self.peak_bytes = 0
        self.reserved_bytes = 0
        self.peak_reserved_bytes = 0

    def allocate(self, nbytes: int) -> int:
        """Take a block for `nbytes` and return its size.

        Raises:
            BlockTooLargeError: if the limit would be exceeded, also after releasing what is only cached.
        """
        block = (nbytes + 511) // 512 * 512
        allocated = self.allocated_bytes + block
        if allocated > self.reserved_bytes:
            self._reserve(allocated, nbytes)
        self.allocated_bytes = allocated
        if allocated > self.peak_bytes:
            self.peak_bytes = allocated
        return block

    def free(self, block: int) -> None:
        """Give back a block that `allocate` returned."""
        self.allocated_bytes -= block

    def fits(self, nbytes: int) -> bool:
        """Tell whether `nbytes` could be allocated now."""
        return _round_segment(self.allocated_bytes + round_block(nbytes)) <= self.limit_bytes

    def touch(self, nbytes: int) -> None:
        """Allocate and free at once: a kernel's own memory."""
        self.free(self.allocate(nbytes))

    def empty_cache(self) -> None:
        """Release what is reserved and not allocated."""
        self.reserved_bytes = _round_segment(self.allocated_bytes)

    def reset_peak(self) -> None:
        """Begin new peaks from what is held now."""
        self.peak_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes

    def _reserve(self, allocated: int, requested: int) -> None:
        reserved = _round_segment(allocated)
        if reserved > self.limit_bytes:
            raise BlockTooLargeError(requested)
        self.reserved_bytes = reserved
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, reserved)
