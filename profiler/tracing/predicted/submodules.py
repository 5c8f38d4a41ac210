"""Submodules on a virtual GPU: every forward is probed, with the clock on which copies take no time.

A replayed forward enters no submodule; the visits of its recorded run stand in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from profiler.patching import Patches
from profiler.record.events import SubmoduleSpan, Visit
from profiler.tracing.predicted.reader import PredictedReader
from profiler.tracing.submodules import SubmoduleSpans
from profiler.units import NANOSECONDS
from profiler.virtual.step_replay.replay import ForwardCall


class _Segment(NamedTuple):
    """What a forward did between two events: its visits, and the highest allocated since the last of them."""

    visits: tuple[Visit, ...]
    tail_bytes: int


@dataclass
class _Open:
    """A forward that has begun, and its segments so far.

    Attributes:
        call: Which forward it is.
        start: The number of visits before the current segment, in the interval.
        before_bytes: The highest allocated since the last of those.
        now: Bytes and times at which the segment began, from those of the interval on.
    """

    call: ForwardCall
    start: int
    before_bytes: int
    now: tuple[int, int, int]
    segments: list[_Segment] = field(default_factory=list)


class PredictedSpans(SubmoduleSpans):
    """Collects the visits of submodules on a virtual GPU."""

    def __init__(self, reader: PredictedReader, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(reader, modules, _Ideally(reader))
        self._watched = reader
        self._calls: WeakKeyDictionary[ForwardCall, tuple[_Segment, ...]] = WeakKeyDictionary()
        self._forwards: list[_Open] = []

    def unwatch(self) -> None:
        self._watched.watch_replay(None)

    def _stand(self, patches: Patches) -> None:
        super()._stand(patches)
        self._watched.watch_replay(self)

    def begin(self, base_bytes: int) -> None:
        super().begin(base_bytes)
        for one in self._forwards:
            one.start, one.before_bytes, one.now = 0, 0, (0, 0, 0)

    def ended(self) -> SubmoduleSpan | None:
        """Return the interval that ends here, with what a forward that is replayed had done by then."""
        if self._forwards and len(self._visits) == self._forwards[-1].start:
            innermost = self._forwards[-1]
            recorded = self._calls.get(innermost.call, ())[len(innermost.segments) :]
            if len(recorded) > 1:  # the last one ends with the forward
                self._insert(innermost, recorded[0])
        for one in reversed(self._forwards):
            self._keep_segment(one)
            self._join(one)
        return super().ended()

    # -- forwards that may be replayed

    def begins(self, call: ForwardCall) -> None:
        """Note that a forward begins: its readings are kept apart from those before it."""
        self.read()
        now = self._reader.allocated() - self._base_bytes, *self._stopwatch.since()
        self._forwards.append(_Open(call, len(self._visits), self.pending_peak_bytes, now))
        self.pending_peak_bytes = 0

    def ran(self, call: ForwardCall) -> None:
        """Note that it ended: the visits of its submodules are those of its replays."""
        self.read()
        one = self._forwards.pop()
        self._keep_segment(one)
        self._calls[call] = tuple(one.segments)
        self._join(one)

    def replayed(self, call: ForwardCall) -> None:
        """Note that it was replayed: insert the visits of its recorded run."""
        self._peak_seen = max(self._peak_seen, self._reader.take().peak_bytes)
        one = self._forwards.pop()
        recorded = self._calls.get(call, ())
        if len(recorded) != len(one.segments) + 1:  # it ran before the trace began
            self._unknown = True
        self._insert(one, recorded[-1] if recorded else _Segment((), 0))

    def failed(self, call: ForwardCall) -> None:
        """Note that it did not complete: if it was replayed, it is unknown how far its submodules had come."""
        self._forwards.pop()
        self._unknown = True

    def _keep_segment(self, one: _Open) -> None:
        visits = tuple(_counted_from(one.now, visit) for visit in self._visits[one.start :])
        tail_bytes = self.pending_peak_bytes - self._base_bytes - one.now[0]
        one.segments.append(_Segment(visits, tail_bytes))

    def _insert(self, one: _Open, segment: _Segment) -> None:
        """Insert what a forward did in a segment that was replayed."""
        now = one.now
        back = (-now[0], -now[1], -now[2])
        self._visits += [_counted_from(back, visit) for visit in segment.visits]
        self.pending_peak_bytes = self._base_bytes + now[0] + segment.tail_bytes
        self._join(one)

    def _join(self, one: _Open) -> None:
        """Add the peak from before a forward, or its segment, to what came next."""
        if one.start == len(self._visits):
            self.pending_peak_bytes = max(self.pending_peak_bytes, one.before_bytes)
        else:
            first = self._visits[one.start]
            peak_bytes = max(first.peak_bytes, one.before_bytes - self._base_bytes)
            self._visits[one.start] = first._replace(peak_bytes=peak_bytes)


class _Ideally:
    """Reads the clock on which copies take no time."""

    def __init__(self, reader: PredictedReader) -> None:
        self._reader = reader
        self._began = (0.0, 0.0)

    def restart(self) -> None:
        self._began = self._reader.ideally()

    def since(self) -> tuple[int, int]:
        host, stream = self._reader.ideally()
        return (
            round((host - self._began[0]) * NANOSECONDS),
            round((stream - self._began[1]) * NANOSECONDS),
        )


def _counted_from(start: tuple[int, int, int], visit: Visit) -> Visit:
    """Return `visit` with bytes and times counted from a later start."""
    allocated_bytes, host_nanoseconds, stream_nanoseconds = start
    return visit._replace(
        peak_bytes=visit.peak_bytes - allocated_bytes,
        allocated_bytes=visit.allocated_bytes - allocated_bytes,
        host_nanoseconds=visit.host_nanoseconds - host_nanoseconds,
        stream_nanoseconds=visit.stream_nanoseconds - stream_nanoseconds,
    )
