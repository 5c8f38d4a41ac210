"""Submodules on a virtual GPU: every forward is probed, with the clock on which copies take no time.

A replayed forward enters no submodule; the visits of its recorded run stand in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import nn

from profiler.patching import Patches
from profiler.record.events import Visit
from profiler.tracing.predicted.reader import PredictedReader
from profiler.tracing.submodules import SubmoduleSpans
from profiler.units import NANOSECONDS
from profiler.virtual.step_replay.replay import ForwardCall


class PredictedSpans(SubmoduleSpans):
    """Collects the visits of submodules on a virtual GPU."""

    def __init__(self, reader: PredictedReader, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(reader, modules, _Ideally(reader))
        self._watched = reader
        self._calls: WeakKeyDictionary[ForwardCall, tuple[tuple[Visit, ...], int]] = (
            WeakKeyDictionary()
        )
        self._forwards: list[tuple[int, int, tuple[int, int, int]]] = []

    def unwatch(self) -> None:
        self._watched.watch_replay(None)

    def _stand(self, patches: Patches) -> None:
        super()._stand(patches)
        self._watched.watch_replay(self)

    # -- forwards that may be replayed

    def begins(self, call: ForwardCall) -> None:
        """Note that a forward begins: its readings are kept apart from those before it."""
        self.read()
        now = self._reader.allocated() - self._base_bytes, *self._stopwatch.since()
        self._forwards.append((len(self._visits), self.pending_peak_bytes, now))
        self.pending_peak_bytes = 0

    def ran(self, call: ForwardCall) -> None:
        """Note that it ended: the visits of its submodules are those of its replays."""
        self.read()
        start, before_bytes, now = self._forwards.pop()
        visits = tuple(_counted_from(now, visit) for visit in self._visits[start:])
        tail_bytes = self.pending_peak_bytes - self._base_bytes - now[0]
        self._calls[call] = visits, tail_bytes
        self._join(start, before_bytes)

    def replayed(self, call: ForwardCall) -> None:
        """Note that it was replayed: insert the visits of its recorded run."""
        self._peak_seen = max(self._peak_seen, self._reader.take().peak_bytes)
        start, before_bytes, now = self._forwards.pop()
        if call not in self._calls:  # it ran before the trace began
            self._unknown = True
        visits, tail_bytes = self._calls.get(call, ((), 0))
        back = (-now[0], -now[1], -now[2])
        self._visits += [_counted_from(back, visit) for visit in visits]
        self.pending_peak_bytes = self._base_bytes + now[0] + tail_bytes
        self._join(start, before_bytes)

    def failed(self, call: ForwardCall) -> None:
        """Note that it did not complete: if it was replayed, it is unknown how far its submodules had come."""
        self._forwards.pop()
        self._unknown = True

    def _join(self, start: int, before_bytes: int) -> None:
        """Add the peak from before a forward to what came next."""
        if start == len(self._visits):
            self.pending_peak_bytes = max(self.pending_peak_bytes, before_bytes)
        else:
            first = self._visits[start]
            peak_bytes = max(first.peak_bytes, before_bytes - self._base_bytes)
            self._visits[start] = first._replace(peak_bytes=peak_bytes)


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
