"""What the events of a profile say, as plain rows: tallies of calls, phases and steps, stays on the card, the peak.

The DataFrames, the summary, the findings and the reports all read a profile through these functions, so that a figure
is the same wherever it is shown. An event owns the span since the previous event's end (its lead) and its own duration.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from profiler.profile import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from profiler.profile import Component, Event, Profile


MOVES = ("onload", "offload", "cast", "copy")


class Tally(NamedTuple):
    """Figures of a stretch of events."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    h2d_bytes: int  # everything copied to the card
    d2h_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    start_seconds: float  # where the lead of the first event begins
    seconds: float


class Step(NamedTuple):
    """One denoise step, that is one `scheduler.step`."""

    call: int
    step: int
    tally: Tally
    resident: tuple[str, ...]  # components that had bytes on the card at some moment of it


class Stay(NamedTuple):
    """A stretch in which the bytes that a component has on the card did not change."""

    component: str
    where: str  # the card's device where all of it is there, "cpu" where nothing is, else "split"
    device_bytes: int
    start_ordinal: int  # event whose end begins the stay; -1 from the beginning
    end_ordinal: int  # event whose end ends it; the last event's where the trace ended first
    start_seconds: float
    end_seconds: float


class Moment(NamedTuple):
    """The worst moment of a stretch."""

    ordinal: int
    peak_bytes: int
    phase: str
    step: int
    component: str  # who computed or moved; "" for neither
    doing: str  # "forward", "decode", ... while it computed; one of MOVES while it moved; "" for neither


def span_peak_bytes(event: Event) -> int:
    """Return the highest allocated bytes in the event's lead and in the event itself."""
    return max(event.lead_peak_bytes, event.peak_bytes)


def direction(event: Event) -> str:
    """Return "h2d" or "d2h" for an event that copied bytes between host and card, else "".

    Dropping a copy on the card (to `meta`, or to a master that the host kept) moves nothing.
    """
    if event.kind not in ("onload", "offload", "copy"):
        return ""
    if _on_card(event.to_device):
        return "" if _on_card(event.from_device) else "h2d"
    return "d2h" if event.to_device in ("cpu", "disk") and _on_card(event.from_device) else ""


def tally(events: Iterable[Event], *, start_seconds: float) -> Tally:
    """Return the figures of consecutive `events`, of which the first one's lead begins at `start_seconds`."""
    peak = reserved = 0
    moved = {"h2d": 0, "d2h": 0, "h2d_weight": 0, "d2h_weight": 0}
    end_seconds = start_seconds
    for event in events:
        peak = max(peak, event.lead_peak_bytes, event.peak_bytes)
        reserved = max(reserved, event.reserved_bytes)
        end_seconds = event.start_seconds + event.seconds
        way = direction(event)
        if way:
            moved[way] += event.bytes
            moved[f"{way}_weight"] += event.bytes if event.kind != "copy" else 0
    return Tally(peak, reserved, *moved.values(), start_seconds, end_seconds - start_seconds)


def calls(profile: Profile) -> list[tuple[int, Tally]]:
    """Return the tally of each call of the pipeline, in order; -1 is what happened outside any call."""
    return list(_tallies(profile.events, lambda event: event.call))


def phases(profile: Profile) -> list[tuple[str, Tally]]:
    """Return the tally of each phase that occurs, in the order of `PHASES`, over all calls."""
    parts: dict[str, list[Tally]] = {}
    for phase, part in _tallies(profile.events, lambda event: event.phase):
        parts.setdefault(phase, []).append(part)
    known = [phase for phase in PHASES if phase in parts] + [
        phase for phase in parts if phase not in PHASES
    ]
    return [(phase, _joined(parts[phase])) for phase in known]


def steps(profile: Profile) -> list[Step]:
    """Return every denoise step, in order."""
    found = []
    resident = initial_resident_bytes(profile)
    end_seconds = 0.0
    for (call, step), group in groupby(profile.events, key=lambda event: (event.call, event.step)):
        events = list(group)
        seen = {name for name, count in resident.items() if count}
        for event in events:
            if event.component in resident:
                resident[event.component] = event.resident_bytes
                seen |= {event.component} if event.resident_bytes else set()
        if step >= 0:
            names = tuple(name for name in resident if name in seen)
            found.append(Step(call, step, tally(events, start_seconds=end_seconds), names))
        end_seconds = events[-1].start_seconds + events[-1].seconds
    return found


def stays(profile: Profile) -> list[Stay]:
    """Return the stays of every component, component by component."""
    changes = {part.name: [(-1, 0.0, count)] for part, count in _with_initial(profile)}
    for event in profile.events:
        track = changes.get(event.component)
        if track and track[-1][2] != event.resident_bytes:
            track.append((event.ordinal, event.start_seconds + event.seconds, event.resident_bytes))
    end = _end(profile)
    device = card_device(profile)
    return [
        Stay(
            part.name, _where(part, count, device), count, ordinal, end_ordinal, start, end_seconds
        )
        for part in profile.components
        for (ordinal, start, count), (end_ordinal, end_seconds, _) in _pairs(
            changes[part.name], end
        )
    ]


def initial_resident_bytes(profile: Profile) -> dict[str, int]:
    """Return what each component had on the card when the trace began, in bytes as allocated."""
    return {part.name: count for part, count in _with_initial(profile)}


def peak_moment(profile: Profile) -> Moment | None:
    """Return the worst moment of the run, the first of equals; None without events."""
    return max(_moments(profile), key=lambda moment: moment.peak_bytes, default=None)


def phase_peaks(profile: Profile) -> dict[str, Moment]:
    """Return the worst moment of each phase that occurs."""
    worst: dict[str, Moment] = {}
    for moment in _moments(profile):
        if moment.phase not in worst or moment.peak_bytes > worst[moment.phase].peak_bytes:
            worst[moment.phase] = moment
    return worst


def compute_peaks(profile: Profile) -> dict[str, Moment]:
    """Return the worst moment at which each component that was called computed."""
    worst: dict[str, Moment] = {}
    for moment in _moments(profile):
        name = moment.component
        computes = name and moment.doing not in MOVES
        if computes and (name not in worst or moment.peak_bytes > worst[name].peak_bytes):
            worst[name] = moment
    return worst


def card_device(profile: Profile) -> str:
    """Return the card's device string as the events spell it; "cuda:0" where nothing moved."""
    for event in profile.events:
        for device in (event.to_device, event.from_device):
            if _on_card(device):
                return device
    return "cuda:0"


def _moments(profile: Profile) -> Iterator[Moment]:
    """Yield the worst moment of each event's lead, and of each event that moves bytes.

    In a lead the innermost entered component computes, if memory rose above both ends of it or its exit closes it.
    """
    entered: list[tuple[str, str]] = []
    previous_bytes = 0
    for event in profile.events:
        name, doing = "", ""
        if event.kind == "exit":
            name, doing = event.component, event.entry
        elif entered and event.lead_peak_bytes > max(previous_bytes, event.before_bytes):
            name, doing = entered[-1]
        yield Moment(event.ordinal, event.lead_peak_bytes, event.phase, event.step, name, doing)
        if event.kind in MOVES:
            yield Moment(
                event.ordinal,
                event.peak_bytes,
                event.phase,
                event.step,
                event.component,
                event.kind,
            )
        if event.kind == "enter":
            entered.append((event.component, event.entry))
        elif event.kind == "exit" and entered:
            entered.pop()
        previous_bytes = event.after_bytes


def _tallies(
    events: Iterable[Event], key: Callable[[Event], Hashable]
) -> Iterator[tuple[object, Tally]]:
    end_seconds = 0.0
    for value, group in groupby(events, key=key):
        stretch = tally(group, start_seconds=end_seconds)
        end_seconds += stretch.seconds
        yield value, stretch


def _joined(parts: list[Tally]) -> Tally:
    peaks = (max(part[0] for part in parts), max(part[1] for part in parts))
    moved = (sum(part[column] for part in parts) for column in range(2, 6))
    return Tally(*peaks, *moved, parts[0].start_seconds, sum(part.seconds for part in parts))


def _with_initial(profile: Profile) -> Iterator[tuple[Component, int]]:
    """Yield each component with its first bytes on the card: its tensors say, else its first event does.

    The first event states the end of itself only, so before an `onload` nothing was there and before an `offload` all.
    """
    first: dict[str, Event] = {}
    for event in profile.events:
        first.setdefault(event.component, event)
    for part in profile.components:
        on_card = [_on_card(tensor.device) for tensor in part.tensors]
        if not on_card:
            event = first.get(part.name)
            yield part, _before(event) if event else 0
        elif all(on_card):
            yield part, part.allocated_bytes
        else:
            there = (t for t in part.tensors if _on_card(t.device))
            yield part, sum(t.numel * t.itemsize for t in there)


def _before(event: Event) -> int:
    change = {"onload": -event.bytes, "offload": event.bytes}.get(event.kind, 0)
    return max(0, event.resident_bytes + change)


def _pairs(
    track: list[tuple[int, float, int]], end: tuple[int, float, int]
) -> Iterator[tuple[tuple[int, float, int], tuple[int, float, int]]]:
    yield from zip(track, [*track[1:], end], strict=True)


def _end(profile: Profile) -> tuple[int, float, int]:
    last = profile.events[-1] if profile.events else None
    return (last.ordinal, last.start_seconds + last.seconds, 0) if last else (-1, 0.0, 0)


def _where(part: Component, device_bytes: int, device: str) -> str:
    if not device_bytes:
        return "cpu"
    return device if device_bytes >= part.allocated_bytes else "split"


def _on_card(device: str) -> bool:
    return device.startswith("cuda")
