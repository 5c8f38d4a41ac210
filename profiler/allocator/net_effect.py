"""The net effect of a run of requests on the caching allocator, if it is known to repeat.

The free blocks alone decide which block a request gets, as long as no block is old enough to be collected and
none waits for a stream. So the same requests do the same to the same free blocks, and most free blocks make no
difference: those that no request takes, cuts or merges with only must not fit better than those that are taken. The
changes to the figures are added up. The changes to the blocks follow from which of them are in use in the end, since
free neighbours are always merged. All this holds for requests that did not go to the driver.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from profiler.allocator.blocks import key_of, least_key

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.allocator.caching import Allocator

Interval = tuple[int, int]
"""Keys of free blocks, from the first up to, but without, the second."""


def is_settled(allocator: Allocator) -> bool:
    """Tell whether the free blocks alone decide which blocks the next requests get, and no history is recorded."""
    return allocator.best_fit_only and not allocator.waits.queues and allocator.note is None


class Preconditions(NamedTuple):
    """The conditions on the free blocks of a stream under which requests do the same again; per pool, small and large.

    Attributes:
        used: the keys of blocks that are taken, cut or merged with, and whether each is first and last of its segment.
        spoiled: the intervals in which no other key may lie, since its block would be a better fit.
    """

    used: tuple[dict[int, tuple[bool, bool]], ...]
    spoiled: tuple[tuple[Interval, ...], ...]

    def hold(self, allocator: Allocator, stream: int) -> bool:
        """Tell whether the conditions are met."""
        for pool, used, spoiled in zip(allocator.pools, self.used, self.spoiled, strict=True):
            keys, blocks = pool.free_list(stream)
            for key, ends in used.items():
                index = bisect_left(keys, key)
                if index == len(keys) or keys[index] != key or _ends(blocks[index]) != ends:
                    return False
            for low, high in spoiled:
                for key in keys[bisect_left(keys, low) : bisect_left(keys, high)]:
                    if key not in used:
                        return False
        return True


class Watch:
    """Collects the conditions of the requests that are made of one stream's blocks from now on."""

    def __init__(self, allocator: Allocator, stream: int) -> None:
        self._allocator = allocator
        self._lists = [pool.free_list(stream) for pool in allocator.pools]
        self._untouched = [
            {key: _ends(block) for key, block in zip(*free, strict=True)} for free in self._lists
        ]
        self._used: tuple[dict[int, tuple[bool, bool]], ...] = ({}, {})
        self._spoiled: tuple[set[Interval], ...] = (set(), set())

    def allocating(self, nbytes: int) -> None:
        """Note a request that is about to be made."""
        size = self._allocator.rounded(nbytes)
        pool = self._allocator.pool_for(size)
        keys, _ = self._lists[pool]
        index = bisect_left(keys, least_key(size))
        if index < len(keys):  # else the request goes to the driver
            self._spoiled[pool].add((least_key(size), keys[index]))
            self._use(pool, keys[index])

    def freeing(self, block: Block) -> None:
        """Note a block that is about to be freed."""
        pool = self._allocator.pools.index(block.pool)
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.free:
                self._use(pool, key_of(neighbour))

    def following(self, conditions: Preconditions) -> None:
        """Note requests whose conditions are known and were met."""
        for pool, (used, spoiled) in enumerate(zip(*conditions, strict=True)):
            self._spoiled[pool].update(spoiled)
            for key in used:
                self._use(pool, key)

    def _use(self, pool: int, key: int) -> None:
        ends = self._untouched[pool].pop(key, None)
        if ends is not None:
            self._used[pool][key] = ends

    def conditions(self) -> Preconditions:
        """Return the conditions that were found."""
        return Preconditions(self._used, tuple(map(_joined, self._spoiled)))


def _ends(block: Block) -> tuple[bool, bool]:
    return block.previous is None, block.next is None


def _joined(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Return the union of intervals, sorted and disjoint."""
    joined: list[Interval] = []
    for low, high in sorted(intervals):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return tuple(joined)


class HeldBlock(NamedTuple):
    """A block that outlives the requests.

    Attributes:
        pool: the index of its pool.
        stream, address, size, requested: as in `Block`.
    """

    pool: int
    stream: int
    address: int
    size: int
    requested: int


def held(allocator: Allocator, block: Block) -> HeldBlock:
    """Return what `exchange` needs in order to hand out this block again."""
    pool = allocator.pools.index(block.pool)
    return HeldBlock(pool, block.stream, block.address, block.size, block.requested)


def exchange(allocator: Allocator, freed: list[Block], wanted: list[HeldBlock]) -> list[Block]:
    """Free blocks, and cut others out of the free ones that contain them. The figures stay unchanged."""
    for block in freed:
        merged, _ = block.pool.merge(block)
        merged.pool.add(merged)
    blocks = []
    for pool, stream, address, size, requested in wanted:
        block = allocator.pools[pool].carve(stream, address, size)
        block.requested = requested
        blocks.append(block)
    return blocks


class Change(NamedTuple):
    """The change of one figure.

    Attributes:
        figure: its index in `Allocator.stats`.
        rose, fell: the totals by which it rose and fell.
        top: the height of its peak above its first value.
    """

    figure: int
    rose: int
    fell: int
    top: int


class Measure:
    """Measures how the allocator's figures change from now on.

    Meanwhile the peaks start anew; `changes` restores the earlier ones if they are higher.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._stats = allocator.stats()
        self._before = [(stat.rose, stat.fell, stat.peak) for stat in self._stats]
        for stat in self._stats:
            stat.reset_peak()

    def changes(self) -> tuple[Change, ...]:
        """Return the figures that changed, and stop measuring."""
        found = []
        for index, (stat, (rose, fell, peak)) in enumerate(
            zip(self._stats, self._before, strict=True)
        ):
            if stat.rose != rose or stat.fell != fell:
                top = stat.peak - (rose - fell)
                found.append(Change(index, stat.rose - rose, stat.fell - fell, top))
            stat.peak = max(stat.peak, peak)
        return tuple(found)


def apply(allocator: Allocator, changes: tuple[Change, ...]) -> None:
    """Change the allocator's figures as they changed when they were measured."""
    stats = allocator.stats()
    for figure, rose, fell, top in changes:
        stat = stats[figure]
        highest = stat.rose - stat.fell + top
        stat.rose += rose
        stat.fell += fell
        stat.peak = max(stat.peak, highest)


def driver_calls(allocator: Allocator) -> tuple[int, ...]:
    """Return the counts of all calls to the driver, of every kind."""
    segments = allocator.segments
    return (
        segments.allocations,
        segments.frees,
        allocator.retries,
        allocator.failures,
        allocator.flushes,
    )
