"""Turns the reports of the hooks into events, and keeps the peak breakdown.

Every event takes the peak since the previous one (in the gap before it), so that every moment of the run is in an event
or in a gap before one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from profiler.record.events import Event, SubmoduleSpan
from profiler.record.profile import Failure, PeakItem
from profiler.tracing.history import Made, TorchHistory
from profiler.tracing.phases import Phases
from profiler.tracing.reader import MemoryReader, Reading, largest_free_block_bytes, shortage_of
from profiler.tracing.submodules import SubmoduleSpans


@dataclass
class Span:
    """The facts about an event, collected while it happens."""

    kind: str
    component: str = ""
    group: str = ""
    entry: str = ""
    bytes: int = 0
    dtype: str = ""
    from_device: str = ""
    to_device: str = ""
    asked_by: str = ""
    resident_bytes: int = -1  # -1: as before
    dropped: bool = False  # nothing happened after all
    attempted: str = "onload"  # the intended kind of a move that fails before anything moved


DELETED = "script"
"""`asked_by` of an offload of weights that went with their component."""

DROPPED = "meta"
"""`to_device` of an offload that moved nothing: the device copy was dropped."""

# An error is identified by this: a reference to it would keep every tensor of the frames that it passed alive.
_Sign = tuple[int, type[BaseException], str]


class _Opened(NamedTuple):
    """The facts known when an event begins."""

    before: Reading
    lead_peak_bytes: int
    inside: SubmoduleSpan | None
    mark: float
    phase: str
    step: int
    call: int


class Recorder:
    """Collects the events of one trace.

    Args:
        reader: the memory reader.
        phases: knows the phase.
        spans: knows what submodules did between events.
        history: notified of the purpose of memory, if torch records its history.

    Attributes:
        resident: allocated bytes on the device, by component.
        active: the components that are running, outermost first.
        sending: whether a hook is sending inputs, inside a span of weights.
    """

    def __init__(
        self,
        reader: MemoryReader,
        phases: Phases,
        spans: SubmoduleSpans,
        history: TorchHistory | None = None,
    ) -> None:
        self._events: list[Event] = []
        self._event_marks = array("d")  # two marks per event, for its begin and its end
        self.resident: dict[str, int] = {}
        self.active: list[str] = []
        self.sending = False
        self._reader = reader
        self._phases = phases
        self._spans = spans
        self._history = history
        self._moving = ""  # the component whose weights are being moved
        self._pending_peak = 0
        self._in_span = False
        self._worst = (-1, {}, "")  # type: tuple[int, dict[str, int], str]
        self._gone: list[str] = []  # components that were dropped since the last event
        self._failing: tuple[_Sign, Failure] | None = None

    @property
    def in_span(self) -> bool:
        """True while weights are being moved."""
        return self._in_span

    def gone(self, component: str) -> None:
        """Note that the script dropped a component. Called from wherever Python releases it."""
        self._gone.append(component)

    def settle_gone(self) -> None:
        """Record the components dropped since the last event: their weights are no longer on the device."""
        while self._gone:
            name = self._gone.pop(0)
            if self.resident.get(name):
                self._record_gone(name)

    def _record_gone(self, name: str) -> None:
        opened = self._open()
        held_bytes = opened.before.allocated_bytes + self.resident[name]
        before_bytes = max(min(held_bytes, opened.lead_peak_bytes), opened.before.allocated_bytes)
        self.resident[name] = 0
        span = Span("offload", name, asked_by=DELETED, from_device="cuda:0", to_device=DROPPED)
        after = opened.before._replace(peak_bytes=before_bytes)
        before = opened.before._replace(allocated_bytes=before_bytes)
        self._append(span, opened._replace(before=before), after, opened.mark)

    def relabel(self) -> None:
        """Set the purpose of memory from now on; to be called whenever it may have changed."""
        if self._history is None:
            return
        phases = self._phases
        when = (phases.call, phases.name, phases.step)
        if self._in_span and self._moving and not self.sending:
            self._history.label(Made(self._moving, "weights", *when))
        elif self.active:
            self._history.label(Made(self.active[-1], "activations", *when))
        else:
            self._history.label(Made("", "other", *when))

    def instant(self, span: Span) -> None:
        """Record something that takes no time."""
        if self._in_span:
            return
        if span.kind in ("begin", "enter"):
            self._failing = None  # its error was handled
        opened = self._opened()
        self.relabel()
        now = opened.before._replace(peak_bytes=opened.before.allocated_bytes)
        self._append(span, opened, now, opened.mark)

    @contextmanager
    def span(self, span: Span) -> Iterator[Span]:
        """Record what happens inside as one event; a span inside a span belongs to the outer one."""
        if self._in_span:
            yield span
            return
        try:
            with self._event(span):
                yield span
        except BaseException as error:
            doing = span.attempted if span.kind == "move" else span.kind
            works = self._works_during(span)
            self.note_failure(error, component=span.component, doing=doing, works=works)
            raise

    @contextmanager
    def _event(self, span: Span) -> Iterator[None]:
        reader, spans = self._reader, self._spans
        opened = self._opened()
        self._in_span = span.kind in ("onload", "offload", "cast", "move", "empty_cache")
        self._moving = span.component
        self.relabel()
        try:
            yield
        finally:
            self._in_span = False
            self.relabel()
            after = reader.take()
            if span.dropped:
                self._pending_peak = max(opened.lead_peak_bytes, after.peak_bytes)
                spans.pending_peak_bytes = max(spans.pending_peak_bytes, after.peak_bytes)
            else:
                if span.resident_bytes >= 0:
                    self.resident[span.component] = span.resident_bytes
                self._note(after.peak_bytes, self._works_during(span))
                self._append(span, opened, after, reader.mark())

    def _opened(self) -> _Opened:
        """Return the facts known when an event begins, after recording what was dropped before it."""
        self.settle_gone()
        return self._open()

    def _open(self) -> _Opened:
        before = self._spans.read()
        peaks = self._pending_peak, self._spans.take_peak_of_visits(), before.peak_bytes
        self._pending_peak = 0
        self._note(max(peaks), self._works)
        phases = self._phases
        return _Opened(
            before,
            max(peaks),
            self._spans.ended(),
            self._reader.mark(),
            phases.name,
            phases.step,
            phases.call,
        )

    def _append(self, span: Span, opened: _Opened, after: Reading, end: float) -> None:
        reader, spans = self._reader, self._spans
        self._event_marks.extend((opened.mark, end))
        host, link = reader.take_host(), reader.take_link()
        index = spans.keep(opened.inside, (span.kind, span.component))
        spans.begin(after.allocated_bytes)
        self._events.append(
            Event(
                ordinal=len(self._events),
                call=opened.call,
                kind=span.kind,
                component=span.component,
                group=span.group,
                entry=span.entry,
                bytes=span.bytes,
                dtype=span.dtype,
                from_device=span.from_device,
                to_device=span.to_device,
                stream=reader.stream(),
                phase=opened.phase,
                step=opened.step,
                asked_by=span.asked_by,
                lead_peak_bytes=opened.lead_peak_bytes,
                before_bytes=opened.before.allocated_bytes,
                peak_bytes=after.peak_bytes,
                after_bytes=after.allocated_bytes,
                reserved_bytes=after.reserved_bytes,
                resident_bytes=self.resident.get(span.component, 0),
                start_seconds=0.0,  # set in `events`
                seconds=0.0,
                host_pageable_bytes=host.pageable_bytes,
                host_pinned_bytes=host.pinned_bytes,
                host_peak_bytes=host.peak_bytes,
                transfer_seconds=link.busy_seconds,
                exposed_transfer_seconds=link.exposed_seconds,
                inside=index,
            )
        )

    def events(self) -> list[Event]:
        """Return the events, with the times that the memory reader knows by now."""
        at, marks = self._reader.seconds_at, iter(self._event_marks)
        for index, (event, begin, end) in enumerate(zip(self._events, marks, marks, strict=True)):
            start = at(begin)
            seconds = max(at(end) - start, 0.0)
            self._events[index] = event._replace(start_seconds=start, seconds=seconds)
        return self._events

    def note_failure(
        self, error: BaseException, *, component: str, doing: str, works: str | None = None
    ) -> None:
        """Keep what was on the GPU when `error` was first seen; `component` ran, unless `works` names another."""
        if self._failing is not None and self._failing[0] == _sign(error):
            return
        reader = self._reader
        shortage = shortage_of(error)
        allocated_bytes = shortage.allocated_bytes if shortage else None
        held = reader.allocated() if allocated_bytes is None else allocated_bytes
        workspace = reader.kept_workspace_bytes()
        failure = Failure(
            component=component,
            doing=doing,
            phase=self._phases.name,
            step=self._phases.step,
            ordinal=max(len(self._events) - 1, 0),
            out_of_memory=shortage is not None,
        )
        if shortage is not None:
            failure = replace(
                failure,
                **shortage._asdict(),
                largest_free_block_bytes=largest_free_block_bytes(),
                holders=_items(
                    held, self.resident, component if works is None else works, workspace
                ),
            )
        self._failing = (_sign(error), failure)

    def failure(self, error: BaseException | None) -> Failure | None:
        """Return the failure with which `error` ended the run."""
        failing, self._failing = self._failing, None
        if failing is None or error is None or failing[0] != _sign(error):
            return None
        return failing[1]

    def bill(self) -> tuple[PeakItem, ...]:
        """Return the peak breakdown: the holders of all bytes at the peak; the items add up to it."""
        peak, resident, active = self._worst
        return _items(peak, resident, active, self._reader.peak_workspace_bytes())

    def _note(self, peak: int, works: str) -> None:
        if peak > self._worst[0]:
            self._worst = (peak, dict(self.resident), works)

    @property
    def _works(self) -> str:
        """The component that is running; "" if none is."""
        return self.active[-1] if self.active else ""

    def _works_during(self, span: Span) -> str:
        """Return the component that runs during `span`: none while a whole component moves, which precedes its run."""
        whole = span.kind in ("onload", "offload", "cast", "move") and not span.group
        return "" if whole else self._works


def _sign(error: BaseException) -> _Sign:
    return id(error), type(error), str(error)


def _items(
    allocated: int, resident: dict[str, int], active: str, workspace: int
) -> tuple[PeakItem, ...]:
    """Return the holders of `allocated` bytes; the items add up to it."""
    items = [
        PeakItem(holder=name, what="weights", bytes=size) for name, size in resident.items() if size
    ]
    items.sort(key=lambda item: -item.bytes)
    rest = allocated - sum(item.bytes for item in items)
    workspace = min(workspace, max(rest, 0))
    if workspace:
        items.append(PeakItem(holder=active, what="workspace", bytes=workspace))
    if rest - workspace:
        what = "activations" if active and rest > 0 else "unattributed"
        items.append(PeakItem(holder=active, what=what, bytes=rest - workspace))
    return tuple(items)
