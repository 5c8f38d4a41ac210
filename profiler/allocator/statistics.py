"""The counters of the caching allocator: current, peak and accumulated figures, for both pools together and for each.

Source: `Stat` in PyTorch's c10/core/Allocator.h and `DeviceStats` in c10/core/CachingDeviceAllocator.h.
"""

from __future__ import annotations

from collections.abc import Callable

Note = Callable[[str, int, int, int], None]
"""Called with an action of `history.ACTIONS`, an address, bytes and a stream."""


class Stat:
    """One figure: `current` and `peak`, and how much it rose and fell since the last reset.

    The current value is everything it ever rose less everything it ever fell.
    """

    __slots__ = ("fell", "forgotten_fall", "forgotten_rise", "peak", "rose")

    def __init__(self) -> None:
        self.rose = self.fell = self.peak = 0
        self.forgotten_rise = self.forgotten_fall = 0

    @property
    def current(self) -> int:
        """The present value."""
        return self.rose - self.fell

    def change(self, amount: int) -> None:
        """Raise it by `amount`, or lower it if `amount` is negative."""
        if amount < 0:
            self.fell -= amount
            return
        self.rose += amount
        self.peak = max(self.peak, self.rose - self.fell)

    def figures(self) -> dict[str, int]:
        """Return the four figures under PyTorch's names."""
        return {
            "current": self.current,
            "peak": self.peak,
            "allocated": self.rose - self.forgotten_rise,
            "freed": self.fell - self.forgotten_fall,
        }

    def reset_peak(self) -> None:
        """Start a new peak from the present value."""
        self.peak = self.current

    def reset_accumulated(self) -> None:
        """Reset the totals of how much it rose and fell."""
        self.forgotten_rise, self.forgotten_fall = self.rose, self.fell


class StatisticsTally:
    """The figures of one pool, or of all pools.

    Attributes:
        allocation: blocks in use.
        allocated_bytes: their total length.
        requested_bytes: the bytes exactly as requested, until no stream uses the blocks any more.
        active, active_bytes: blocks in use or waiting for a stream, with remainders that could not be split off.
        inactive_split, inactive_split_bytes: free blocks that share a segment with others.
        segment, reserved_bytes: segments that the driver has given.
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
        """Return the figures under PyTorch's names."""
        return {name: getattr(self, name) for name in self.__slots__}


# These run for every tensor, so each updates a pool's tally and that of both pools at once, without `Stat.change`.


def take(tallies: tuple[StatisticsTally, StatisticsTally], size: int, requested: int) -> None:
    """Count a block that was handed out."""
    for tally in tallies:
        stat = tally.allocation
        stat.rose = rose = stat.rose + 1
        stat.peak = max(stat.peak, rose - stat.fell)
        stat = tally.allocated_bytes
        stat.rose = rose = stat.rose + size
        stat.peak = max(stat.peak, rose - stat.fell)
        stat = tally.active
        stat.rose = rose = stat.rose + 1
        stat.peak = max(stat.peak, rose - stat.fell)
        stat = tally.active_bytes
        stat.rose = rose = stat.rose + size
        stat.peak = max(stat.peak, rose - stat.fell)
        stat = tally.requested_bytes
        stat.rose = rose = stat.rose + requested
        stat.peak = max(stat.peak, rose - stat.fell)


def give(tallies: tuple[StatisticsTally, StatisticsTally], size: int) -> None:
    """Count a block that was freed, but may still wait for a stream."""
    for tally in tallies:
        tally.allocation.fell += 1
        tally.allocated_bytes.fell += size


def retire(tallies: tuple[StatisticsTally, StatisticsTally], size: int, requested: int) -> None:
    """Count a block that is no longer active either."""
    for tally in tallies:
        tally.active.fell += 1
        tally.active_bytes.fell += size
        tally.requested_bytes.fell += requested


def split(tallies: tuple[StatisticsTally, StatisticsTally], count: int, nbytes: int) -> None:
    """Count free blocks of shared segments, or uncount them if negative."""
    for tally in tallies:
        if count:
            tally.inactive_split.change(count)
        stat = tally.inactive_split_bytes
        if nbytes < 0:
            stat.fell -= nbytes
        else:
            stat.rose = rose = stat.rose + nbytes
            stat.peak = max(stat.peak, rose - stat.fell)
