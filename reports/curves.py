"""The curves of the timeline as numbers: lanes, the stack of weights, the other memory on top of it, the axis.

The HTML page and the PNG picture draw the same lists. A curve has two slices for each column: at its start and end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.record.profile import Profile
    from reports.timeline_columns import Column


class Band(NamedTuple):
    """One vertical slice of a filled band: its lower and upper edges at one position of the axis."""

    position: float
    low: float
    high: float


def held(columns: Sequence[Column], index: int) -> list[Band]:
    """Return the bytes of component `index` on the GPU."""
    slices = []
    for column in columns:
        slices.append(Band(column.start, 0.0, float(column.held_before[index])))
        slices.append(Band(column.end, 0.0, float(column.held_after[index])))
    return slices


def fullest(columns: Sequence[Column], index: int, whole_bytes: int) -> float:
    """Return the bytes that fill the lane of component `index`; a cast can increase its size."""
    most = max(
        (max(column.held_before[index], column.held_after[index]) for column in columns), default=0
    )
    return float(max(most, whole_bytes, 1))


def busy(columns: Sequence[Column], index: int, name: str, least: float) -> list[Band]:
    """Return `held` where the component computes, at least `least` bytes high to be visible, and zero elsewhere."""
    return [
        edge._replace(
            high=max(edge.high, least)
            if edge.high and columns[place // 2].computing == name
            else 0.0
        )
        for place, edge in enumerate(held(columns, index))
    ]


def stacked(columns: Sequence[Column], components: int) -> list[list[Band]]:
    """Return `held` of each component, stacked on top of those before it."""
    floor = [0.0] * (2 * len(columns))
    bands = []
    for index in range(components):
        own = held(columns, index)
        bands.append(
            [
                Band(edge.position, low, low + edge.high)
                for edge, low in zip(own, floor, strict=True)
            ]
        )
        floor = [edge.high for edge in bands[-1]]
    return bands


def rest(columns: Sequence[Column]) -> list[Band]:
    """Return the bytes allocated besides weights: at the peak of each column, or sloped where weights move."""
    slices = []
    for column in columns:
        ends = ((column.start, column.held_before), (column.end, column.held_after))
        for (position, weights), high in zip(ends, _highs(column), strict=True):
            low = float(sum(weights))
            slices.append(Band(position, low, max(low, float(high))))
    return slices


def _highs(column: Column) -> tuple[int, int]:
    """Return the heights at which allocated memory is drawn at the start and at the end of a column."""
    slope = (column.before_bytes, column.after_bytes)
    return slope if column.peak_bytes <= max(slope) else (column.peak_bytes, column.peak_bytes)


def peak_point(columns: Sequence[Column]) -> tuple[float, int]:
    """Return the highest point of the curve of allocated memory: a position of the axis, and bytes."""
    highest = max(columns, key=lambda column: column.peak_bytes)
    start, end = _highs(highest)
    if start == end:
        return (highest.start + highest.end) / 2, end
    return (highest.end, end) if end > start else (highest.start, start)


def reserved(columns: Sequence[Column]) -> list[tuple[float, float]]:
    """Return the corners of the staircase of reserved bytes."""
    corners: list[tuple[float, float]] = []
    for column in columns:
        value = float(column.reserved_bytes)
        if corners and corners[-1][1] == value:
            corners[-1] = (column.end, value)
        else:
            corners += [(column.start, value), (column.end, value)]
    return corners


def host(columns: Sequence[Column]) -> tuple[list[Band], list[Band]]:
    """Return pinned host memory, and stacked on it pageable host memory, at its peak in each column."""
    pinned, pageable = [], []
    for column in columns:
        low = float(column.host_pinned_bytes)
        high = max(low, float(column.host_peak_bytes))
        for position in (column.start, column.end):
            pinned.append(Band(position, 0.0, low))
            pageable.append(Band(position, low, high))
    return pinned, pageable


def host_top_bytes(profile: Profile) -> int:
    """Return the highest value of the axis of host memory; 0 if the profile does not record it."""
    return int(profile.totals.host_peak_bytes * 1.12)


def top_bytes(profile: Profile) -> int:
    """Return the highest value of the memory axis: the GPU's capacity, unless it is far larger than the memory used."""
    used = max(profile.totals.peak_reserved_bytes, profile.totals.peak_allocated_bytes, 64 * MIB)
    capacity = profile.gpu.capacity_bytes
    return int(max(capacity, used) * 1.06) if capacity <= 2.5 * used else int(used * 1.3)


def ticks(highest_bytes: int, most: int = 8) -> list[int]:
    """Return round values of the memory axis, about `most` of them at most and half as many at least."""
    steps = (
        GIB // 16,
        GIB // 8,
        GIB // 4,
        GIB // 2,
        GIB,
        2 * GIB,
        4 * GIB,
        5 * GIB,
        10 * GIB,
        20 * GIB,
        40 * GIB,
    )
    step = next((step for step in steps if highest_bytes / step <= most), 80 * GIB)
    return list(range(0, highest_bytes + 1, step))
