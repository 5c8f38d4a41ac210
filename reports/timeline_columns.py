"""The columns of the timeline: the effect on memory of each event, and of the time before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.record import moments
from profiler.record import readings as reading

if TYPE_CHECKING:
    from profiler.record.events import Event
    from profiler.record.profile import Profile


class Column(NamedTuple):
    """A stretch of the axis with one event, or many small ones."""

    start: float
    end: float
    seconds: float  # time at which it begins
    what: str  # label for a reader: "unet forward", "unet to the GPU", ...
    phase: str
    step: int
    peak_bytes: int
    reserved_bytes: int  # at its end, or the peak if that is more: reserved includes allocated
    held_before: tuple[
        int, ...
    ]  # bytes of each component on the GPU at the start, in the order of the profile
    held_after: tuple[int, ...]
    before_bytes: int  # allocated at the start
    after_bytes: int
    computing: str  # component that computed; "" for none
    moving: str  # component whose weights moved; "" for none or other copies
    h2d_bytes: int
    d2h_bytes: int
    host_pinned_bytes: int  # at its end
    host_peak_bytes: int  # pinned and pageable host memory together, at their highest


class Residency:
    """The memory held on the GPU, by component, updated event by event."""

    def __init__(self, profile: Profile) -> None:
        self.resident = reading.initial_resident_bytes(profile)
        self.entered: list[tuple[str, str]] = []
        self.not_begun = moments.not_begun(profile)
        self.allocated_bytes = profile.events[0].before_bytes if profile.events else 0
        self.reserved_bytes = 0
        self.end_seconds = 0.0
        self.host_pinned_bytes, self.host_bytes = _host_at_first(profile)

    def columns(self, event: Event) -> tuple[Column, Column]:
        """Return two columns without positions, for the event's gap and the event; `end` holds seconds."""
        held = tuple(self.resident.values())
        inside, entry = self.entered[-1] if self.entered else ("", "")
        if event.ordinal in self.not_begun:
            inside, entry = "", ""
        gap = Column(
            start=0.0,
            end=event.start_seconds - self.end_seconds,
            seconds=self.end_seconds,
            what=f"{inside} {entry}".strip(),
            phase=event.phase,
            step=event.step,
            peak_bytes=event.lead_peak_bytes,
            reserved_bytes=max(self.reserved_bytes, event.lead_peak_bytes),
            held_before=held,
            held_after=held,
            before_bytes=self.allocated_bytes,
            after_bytes=event.before_bytes,
            computing=inside,
            moving="",
            h2d_bytes=0,
            d2h_bytes=0,
            host_pinned_bytes=self.host_pinned_bytes,
            host_peak_bytes=self.host_bytes,
        )
        self._follow(event)
        way = reading.direction(event)
        itself = gap._replace(
            end=event.seconds,
            seconds=event.start_seconds,
            what=_what(event, way),
            peak_bytes=event.peak_bytes,
            reserved_bytes=max(event.reserved_bytes, event.peak_bytes),
            held_after=tuple(self.resident.values()),
            before_bytes=event.before_bytes,
            after_bytes=event.after_bytes,
            computing="",
            moving=event.component if event.kind in ("onload", "offload") else "",
            h2d_bytes=event.bytes if way == "h2d" else 0,
            d2h_bytes=event.bytes if way == "d2h" else 0,
            host_pinned_bytes=event.host_pinned_bytes,
            host_peak_bytes=event.host_peak_bytes,
        )
        return gap, itself

    def _follow(self, event: Event) -> None:
        if event.component in self.resident:
            self.resident[event.component] = event.resident_bytes
        if event.kind == "enter":
            self.entered.append((event.component, event.entry))
        elif event.kind == "exit" and self.entered:
            self.entered.pop()
        self.allocated_bytes = event.after_bytes
        self.reserved_bytes = event.reserved_bytes
        self.end_seconds = event.start_seconds + event.seconds
        self.host_pinned_bytes = event.host_pinned_bytes
        self.host_bytes = min(
            event.host_peak_bytes, event.host_pageable_bytes + event.host_pinned_bytes
        )


def _host_at_first(profile: Profile) -> tuple[int, int]:
    """Return pinned and total host memory before the first event, from that event, which records only its end."""
    first = profile.events[0] if profile.events else None
    return (first.host_pinned_bytes, first.host_peak_bytes) if first else (0, 0)


def _what(event: Event, way: str) -> str:
    if event.kind == "copy":
        return "inputs to the GPU" if way == "h2d" else "outputs to the CPU"
    if way:
        return f"{event.component} {'to the GPU' if way == 'h2d' else 'to the CPU'}"
    if event.kind == "offload":
        return f"{event.component} dropped from the GPU"
    return f"{event.component} {event.kind.replace('_', ' ')}".strip()
