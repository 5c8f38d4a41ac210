"""The timeline of a run as plain data, which both the HTML and the PNG draw.

The axis is not in seconds. A run has long uniform stretches (thirty equal steps) and short decisive ones (an upload,
a decode). So each segment (a phase, or one denoise step) is as wide as the square root of its time, runs of equal
steps are drawn once and then folded, and inside a segment time is linear except for a small share that is divided
between its events. Positions run from 0 to 1. The order of events is exact everywhere.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from profiler.record import readings as reading
from profiler.record.cache import once_per_profile
from reports.timeline_columns import Column, Residency

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.record.events import Event
    from profiler.record.profile import Profile

FOLD_FROM = 4  # least number of equal steps in a row to fold into the first and a count
FOLD_SHARE = 0.10  # of the width of everything else
EQUAL_PEAKS = 0.005  # relative difference of peaks below which two steps look the same
ORDER_SHARE = 0.2  # of a segment's width that is divided by events, the rest by time
SMALLEST_SHARE = 0.022  # least share of the whole width for a segment
COLUMNS = 700  # at most: more are not visible on a page


class Segment(NamedTuple):
    """A stretch of the axis: a phase outside the loop, a denoise step, or a fold of steps like the one before."""

    call: int
    phase: str
    step: int  # of the first step in it; -1 outside the loop
    folded_steps: (
        int  # 0: drawn in full; n: stands for n steps that look like the segment before it
    )
    start_seconds: float
    seconds: float
    start: float  # position
    end: float


class Timeline(NamedTuple):
    """Segments and columns, both in order and without gaps from 0 to 1."""

    order: tuple[
        int, ...
    ]  # components in the order in which they were first used or moved, the unused last
    segments: tuple[Segment, ...]
    columns: tuple[Column, ...]

    @property
    def seconds(self) -> float:
        """The time at which the last segment ends; the axis includes the time before the first call."""
        last = self.segments[-1]
        return last.start_seconds + last.seconds


@once_per_profile
def timeline(profile: Profile) -> Timeline:
    """Return the timeline of `profile`."""
    stretches = list(_folded(_stretches(profile.events)))
    segments = _placed(stretches)
    columns = _columns(profile, stretches, segments)
    shown = tuple(_merged(columns)) if len(columns) > COLUMNS else tuple(columns)
    return Timeline(_order(profile), segments, shown)


def _order(profile: Profile) -> tuple[int, ...]:
    first: dict[str, int] = {}
    for event in profile.events:
        first.setdefault(event.component, event.ordinal)
    names = [part.name for part in profile.components]
    return tuple(
        sorted(range(len(names)), key=lambda index: first.get(names[index], len(profile.events)))
    )


class _Stretch(NamedTuple):
    """Consecutive events of one phase or step; of a fold, the events of all its steps, and their number."""

    events: tuple[Event, ...]
    start_seconds: float
    seconds: float
    folded_steps: int = 0


def _stretches(events: Sequence[Event]) -> Iterator[_Stretch]:
    end_seconds = 0.0
    for _, group in groupby(events, key=lambda event: (event.call, event.phase, event.step)):
        part = tuple(group)
        last = part[-1].start_seconds + part[-1].seconds
        yield _Stretch(part, end_seconds, last - end_seconds)
        end_seconds = last


def _folded(stretches: Iterator[_Stretch]) -> Iterator[_Stretch]:
    """Yield the stretches, with runs of equal steps as the first one and a fold of the others."""
    run: list[_Stretch] = []
    for stretch in stretches:
        if run and not _alike(run[0], stretch):
            yield from _fold(run)
            run = []
        run.append(stretch)
    yield from _fold(run)


def _fold(run: list[_Stretch]) -> list[_Stretch]:
    if len(run) < FOLD_FROM:
        return run
    rest = run[1:]
    events = tuple(event for stretch in rest for event in stretch.events)
    return [
        run[0],
        _Stretch(events, rest[0].start_seconds, sum(s.seconds for s in rest), len(rest)),
    ]


def _alike(one: _Stretch, other: _Stretch) -> bool:
    if (
        one.events[0].step < 0
        or one.events[0].call != other.events[0].call
        or len(one.events) != len(other.events)
    ):
        return False
    return all(
        (a.kind, a.component, a.group, a.bytes) == (b.kind, b.component, b.group, b.bytes)
        and abs(reading.span_peak_bytes(a) - reading.span_peak_bytes(b))
        <= EQUAL_PEAKS * reading.span_peak_bytes(a)
        for a, b in zip(one.events, other.events, strict=True)
    )


def _placed(stretches: list[_Stretch]) -> tuple[Segment, ...]:
    weights = [0.0 if s.folded_steps else math.sqrt(max(s.seconds, 0.0)) for s in stretches]
    if not any(weights):
        weights = [0.0 if s.folded_steps else math.sqrt(len(s.events)) for s in stretches]
    total = sum(weights) or 1.0
    shares = [
        FOLD_SHARE if stretch.folded_steps else max(weight / total, _least_share(stretch))
        for stretch, weight in zip(stretches, weights, strict=True)
    ]
    segments, position, whole = [], 0.0, sum(shares)
    for stretch, share in zip(stretches, shares, strict=True):
        event = stretch.events[0]
        end = position + share / whole
        times = (stretch.start_seconds, stretch.seconds)
        segments.append(
            Segment(
                event.call, event.phase, event.step, stretch.folded_steps, *times, position, end
            )
        )
        position = end
    return tuple(segments)


def _least_share(stretch: _Stretch) -> float:
    """Return the least share of a stretch: none if nothing happened, as in an idle place phase."""
    idle = not stretch.seconds and not any(map(reading.span_peak_bytes, stretch.events))
    return 0.0 if idle else SMALLEST_SHARE


def _columns(
    profile: Profile, stretches: list[_Stretch], segments: tuple[Segment, ...]
) -> list[Column]:
    held = Residency(profile)
    columns: list[Column] = []
    for stretch, segment in zip(stretches, segments, strict=True):
        own = [column for event in stretch.events for column in held.columns(event)]
        columns += [_folded_column(own, segment)] if stretch.folded_steps else _spread(own, segment)
    return columns


def _spread(columns: list[Column], segment: Segment) -> list[Column]:
    """Return the columns side by side over the segment; on input, `end` holds each one's seconds."""
    seconds = sum(max(column.end, 0.0) for column in columns)
    by_time = 1.0 - ORDER_SHARE if seconds else 0.0
    placed, start, shares = [], segment.start, 0.0
    for column in columns:
        shares += (1.0 - by_time) / len(columns)
        shares += by_time * max(column.end, 0.0) / seconds if seconds else 0.0
        end = min(segment.start + shares * (segment.end - segment.start), segment.end)
        placed.append(column._replace(start=start, end=end))
        start = end
    return placed


def _folded_column(columns: list[Column], segment: Segment) -> Column:
    what = f"{segment.folded_steps} more steps like the one before"
    return _merge(columns)._replace(start=segment.start, end=segment.end, what=what)


def _merged(columns: list[Column]) -> Iterator[Column]:
    """Yield at most about `COLUMNS` columns: neighbours of one segment that share a slot become one."""

    def slot(column: Column) -> tuple[int, str, int]:
        return (int(column.start * COLUMNS), column.phase, column.step)

    for _, group in groupby(columns, key=slot):
        yield _merge(list(group))


def _merge(columns: list[Column]) -> Column:
    first, last = columns[0], columns[-1]
    if len(columns) == 1:
        return first
    held = tuple(max(values) for values in zip(*(c.held_after for c in columns), strict=True))
    biggest = max(columns, key=lambda column: column.h2d_bytes + column.d2h_bytes)
    return first._replace(
        end=last.end,
        what=max(columns, key=lambda column: column.peak_bytes).what,
        peak_bytes=max(column.peak_bytes for column in columns),
        reserved_bytes=max(column.reserved_bytes for column in columns),
        held_before=held,
        held_after=held,
        before_bytes=max(column.before_bytes for column in columns),
        after_bytes=max(column.after_bytes for column in columns),
        computing=next((column.computing for column in columns if column.computing), ""),
        moving=biggest.moving,
        h2d_bytes=sum(column.h2d_bytes for column in columns),
        d2h_bytes=sum(column.d2h_bytes for column in columns),
        host_pinned_bytes=max(column.host_pinned_bytes for column in columns),
        host_peak_bytes=max(column.host_peak_bytes for column in columns),
    )
