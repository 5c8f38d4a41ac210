"""What the caching allocator counts: current, peak and accumulated figures, for both pools together and for each.

Source: `Stat` in PyTorch's c10/core/Allocator.h and `DeviceStats` in c10/core/CachingDeviceAllocator.h (v2.13.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.virtual.allocator_blocks import Block


class Stat:
    """One figure: `current` and `peak`, and how much it rose and fell since the last reset.

    Current is what ever rose less what ever fell.
    """

    __slots__ = ("fell", "forgotten_fall", "forgotten_rise", "peak", "rose")

    def __init__(self) -> None:
        self.rose = self.fell = self.peak = 0
        self.forgotten_rise = self.forgotten_fall = 0

    @property
    def current(self) -> int:
        """What it is now."""
        return self.rose - self.fell

    def change(self, amount: int) -> None:
        """Raise it by `amount`, or let it fall where that is negative."""
        if amount < 0:
            self.fell -= amount
            return
        self.rose += amount
        if self.rose - self.fell > self.peak:
            self.peak = self.rose - self.fell

    def figures(self) -> dict[str, int]:
        """Return the four figures by PyTorch's names."""
        return {
            "current": self.current,
            "peak": self.peak,
            "allocated": self.rose - self.forgotten_rise,
            "freed": self.fell - self.forgotten_fall,
        }

    def reset_peak(self) -> None:
        """Begin a new peak from what it is now."""
        self.peak = self.current

    def reset_accumulated(self) -> None:
        """Forget how much it rose and fell."""
        self.forgotten_rise, self.forgotten_fall = self.rose, self.fell


class Tally:
    """The figures of one pool, or of all.

    Attributes:
        allocation: blocks held.
        allocated_bytes: what they asked for, in whole blocks of 512 bytes.
        requested_bytes: what they asked for, exactly; until nobody uses them.
        active, active_bytes: blocks held or waiting for a stream, whole, with what could not be split off.
        inactive_split, inactive_split_bytes: free blocks that share a segment with others.
        segment, reserved_bytes: what the driver gave.
    """

    __slots__ = (
        "active",
        "active_bytes",
        "allocated_bytes",
        "allocation",
        "inactive_split",
        "inactive_split_bytes",
        "requested_bytes",
        "reserved_bytes",
        "segment",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, Stat())

    allocation: Stat
    allocated_bytes: Stat
    requested_bytes: Stat
    active: Stat
    active_bytes: Stat
    inactive_split: Stat
    inactive_split_bytes: Stat
    segment: Stat
    reserved_bytes: Stat

    def stats(self) -> dict[str, Stat]:
        """Return the figures by PyTorch's names."""
        return {name: getattr(self, name) for name in self.__slots__}

    def take(self, block: Block) -> None:
        """Count `block` in: somebody holds it."""
        # `Stat.change` five times, without the calls: this runs for every tensor.
        stat = self.allocation
        stat.rose = rose = stat.rose + 1
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell
        stat = self.allocated_bytes
        stat.rose = rose = stat.rose + block.rounded
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell
        stat = self.active
        stat.rose = rose = stat.rose + 1
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell
        stat = self.active_bytes
        stat.rose = rose = stat.rose + block.size
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell
        stat = self.requested_bytes
        stat.rose = rose = stat.rose + block.requested
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell

    def give(self, block: Block) -> None:
        """Count `block` out of what is held."""
        self.allocation.fell += 1
        self.allocated_bytes.fell += block.rounded

    def retire(self, block: Block) -> None:
        """Count `block` out of what is in use, too."""
        self.active.fell += 1
        self.active_bytes.fell += block.size
        self.requested_bytes.fell += block.requested

    def split(self, count: int, nbytes: int) -> None:
        """Count free blocks of shared segments in, or out."""
        if count:
            self.inactive_split.change(count)
        stat = self.inactive_split_bytes
        if nbytes < 0:
            stat.fell -= nbytes
            return
        stat.rose = rose = stat.rose + nbytes
        if rose - stat.fell > stat.peak:
            stat.peak = rose - stat.fell
