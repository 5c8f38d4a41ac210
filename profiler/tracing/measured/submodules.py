"""Submodules on a real GPU: probed in the first two forwards of each kind, and assumed to behave the same later.

Probing costs time at every submodule (`probes.py`), so their calls are wrapped only while a forward is probed: the
first one, which makes caches and workspaces, and the second, which stands for all that follow. Forwards are of one kind
if they have the same component, entry point, and shapes of arguments. If a later forward records other events than the
second, its data is discarded and the next forward is probed again.

A forward inside which a hook moves weights is not probed: how long its submodules would take without copies cannot be
determined, and a plan is made from whole components anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from profiler.allocator.history_replay import DoesNotAddUpError
from profiler.errors import InputError
from profiler.libraries import offload_state as hooks
from profiler.patching import Patches
from profiler.record.events import Event, SubmoduleSpan, Visit
from profiler.tracing.measured.probed_forwards import ForwardKind, Interval, ProbedStep, resolved
from profiler.tracing.measured.probes import ProbedForward, ProbeReading, Recording, can_record
from profiler.tracing.measured.reader import MeasuredReader
from profiler.tracing.submodules import SubmoduleSpans
from profiler.units import NANOSECONDS

PROBED_FORWARDS = 2
MOST_KINDS = 32
"""The most kinds of forwards that are probed; a run with more does not repeat itself."""

_MOVES = frozenset({"onload", "offload", "cast", "empty_cache", "sync"})


class MeasuredSpans(SubmoduleSpans):
    """Collects the visits of submodules on a real GPU."""

    def __init__(self, reader: MeasuredReader, modules: Mapping[str, nn.Module]) -> None:
        self._watch = _Watch(reader)
        super().__init__(reader, modules, self._watch)
        self._measured = reader
        self._call_impl: Any = None
        self._standing = Patches()
        self._running: list[str] = []
        self._kinds: dict[Any, ForwardKind] = {}
        self._kind: ForwardKind | None = None  # of the outermost running forward
        self._steps: list[ProbedStep] = []
        self._moved = False
        self._entered = 0, 0.0  # a mark, and the host's seconds
        self._probes: ProbedForward = ProbeReading(reader)
        self._start = -1
        self._records = can_record()
        self._proved = False  # whether a recording added up
        self._intervals: list[Interval] = []
        self._forward = -1  # the number of outermost forwards so far, less one
        self._forwards: list[int] = []  # the forward of each event
        self._unlike: set[int] = set()

    def _stand(self, patches: Patches) -> None:
        self._call_impl = self._calling(nn.Module._call_impl)

    def unwatch(self) -> None:
        self._standing.restore()
        self._probes.end()

    # -- forwards

    def entering(self, component: str, entry: str, arguments: tuple[Any, ...]) -> None:
        self._running.append(component)
        if len(self._running) > 1:
            return
        self._forward += 1
        self._steps, self._moved = [], False
        self._kind = self._kind_of(component, entry, arguments)
        if self._kind is None:
            return
        self._watch.running = self._is_probed()
        if self._watch.running:
            self._probes, self._start = self._new_probes(), -1
            self._standing.replace(nn.Module, "_call_impl", self._call_impl)
            self._watch.restart()
        self._entered = self._measured.mark(), self._measured.host_seconds()

    def leaving(self, component: str) -> None:
        self._running.remove(component)
        kind = self._kind
        if self._running or kind is None:
            return
        self._standing.restore()
        if self._watch.running:
            self._probes.end()
        if self._watch.running and not self._adds_up():
            self._unlike.add(self._forward)
        elif self._watch.running:
            kind.first = kind.first or tuple(self._steps)
            kind.steady = tuple(self._steps)
            kind.probed += 1
        elif self._forward in self._unlike or len(self._steps) != len(kind.steady):
            self._unlike.add(self._forward)
            kind.probed = PROBED_FORWARDS - 1
        elif not self._moved:
            began, host_began = self._entered
            host_seconds = self._measured.host_seconds() - host_began
            kind.others.append((began, self._measured.mark(), host_seconds))
        self._kind, self._watch.running = None, False

    def _new_probes(self) -> ProbedForward:
        self._records = self._records and can_record()
        return Recording() if self._records else ProbeReading(self._measured)

    def _adds_up(self) -> bool:
        """Tell whether the finished probes can be read; checked for the first recording, before others follow it."""
        if self._proved or not self._records:
            return True
        try:
            self._probes.moments()
        except (DoesNotAddUpError, InputError):
            self._records = False
            return False
        self._proved = True
        return True

    def _is_probed(self) -> bool:
        return self._kind is not None and self._kind.probed < PROBED_FORWARDS

    def _kind_of(
        self, component: str, entry: str, arguments: tuple[Any, ...]
    ) -> ForwardKind | None:
        key = (component, entry, _shapes(arguments))
        kind = self._kinds.get(key)
        if kind is None:
            module = self._modules[component]
            if len(self._kinds) >= MOST_KINDS or not self._places or hooks.acts_inside(module):
                return None
            kind = self._kinds[key] = ForwardKind()
        return kind

    def keep(self, inside: SubmoduleSpan | None, ended_by: tuple[str, str]) -> int:
        self._forwards.append(self._forward if self._running else -1)
        kind, moves = self._kind, ended_by[0] in _MOVES
        self._moved |= moves
        if kind is None:
            return -1
        if not self._is_probed():
            return self._as_before(kind, ended_by, moves=moves)
        index = -1
        if inside is not None:
            index = len(self._intervals)
            self._intervals.append(
                Interval(inside, self._probes, self._base_bytes, self._start, self._watch.began)
            )
        if index >= 0 or not moves:
            self._steps.append(ProbedStep(ended_by, index))
        return index

    def _as_before(self, kind: ForwardKind, ended_by: tuple[str, str], *, moves: bool) -> int:
        """Return the interval that the second forward of the kind recorded before such an event."""
        due = len(self._steps)
        step = kind.steady[due] if due < len(kind.steady) else None
        if step is not None and step.ended_by == ended_by:
            self._steps.append(step)
            return step.inside
        if not moves:
            self._unlike.add(self._forward)
        return -1

    # -- readings at moments

    def begin(self, base_bytes: int) -> None:
        super().begin(base_bytes)
        if self._watch.running:
            self._start = self._probes.pass_moment(0)

    def ended(self) -> SubmoduleSpan | None:
        if not self._watch.running or not self._visits:
            return None
        tail = self._probes.pass_moment(self.pending_peak_bytes)
        return SubmoduleSpan(tuple(self._visits), tail, *self._watch.since())

    def take_peak_of_visits(self) -> int:
        return self._probes.take_peak()

    def _visit(self, component: int, part: int, entering: int) -> None:
        began = self._measured.host_seconds()
        moment = self._probes.pass_moment(self.pending_peak_bytes)
        self.pending_peak_bytes = 0
        host = self._watch.host_until(began)
        visit = Visit(component, part, entering, moment, 0, host, self._measured.mark())
        self._visits.append(visit)
        self._watch.probing_seconds += self._measured.host_seconds() - began

    # -- results

    def settled(self, events: list[Event]) -> list[Event]:
        found = resolved(self._intervals, self._kinds.values(), self._measured.seconds_at)
        indices = [-1 if inside is None else self._keep(inside) for inside in found]
        return [
            event._replace(inside=-1 if forward in self._unlike else indices[event.inside])
            if event.inside >= 0
            else event
            for event, forward in zip(events, self._forwards, strict=True)
        ]

    def _keep(self, inside: SubmoduleSpan) -> int:
        """Return the index of an interval, by what was visited and allocated."""
        return super().keep(inside, ("", ""))


class _Watch:
    """Reads the host's clock, less the time spent on probing, and marks the stream."""

    def __init__(self, reader: MeasuredReader) -> None:
        self.running = False
        self.began = 0
        self.probing_seconds = 0.0  # since it began
        self._reader = reader
        self._host_began = 0.0

    def restart(self) -> None:
        if self.running:
            self.began = self._reader.mark()
            self._host_began, self.probing_seconds = self._reader.host_seconds(), 0.0

    def since(self) -> tuple[int, int]:
        return self.host_until(self._reader.host_seconds()), self._reader.mark()

    def host_until(self, now: float) -> int:
        """Return the host's nanoseconds from the beginning to `now`, less those of probing."""
        return round((now - self._host_began - self.probing_seconds) * NANOSECONDS)


def _shapes(value: Any) -> Any:
    """Return the arguments of a forward that determine what it allocates: shapes, dtypes and flags, not numbers."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((name, _shapes(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_shapes(item) for item in value)
    return value if isinstance(value, bool | str | None) else type(value)
