"""Findings about what could stay on the card: all of it, one component, or each component while it is used.

Each is an upper bound from the record: what was missing on the card at an event is added to the peak of that event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import record_reading as reading
from profiler.findings.finding import HINT, Finding, ordinals, plan_line
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.profile import Event, Profile


def could_stay(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for the most that could stay and would save uploads."""
    moved = [event for event in profile.events if _uploads(event)]
    names = tuple(
        part.name for part in profile.components if any(e.component == part.name for e in moved)
    )
    usable = usable_bytes(profile)
    everything = peak_with(profile, [part.name for part in profile.components])
    if not names:
        return
    if everything <= usable:
        yield _everything(profile, moved, everything)
    elif profile.mode == "model":
        yield from _one_component(profile, moved, names)
    elif (peak := peak_while_used(profile)) <= usable:
        yield from _whole_components(profile, moved, peak)


def _uploads(event: Event) -> bool:
    return event.kind == "onload" and bool(event.component) and reading.direction(event) == "h2d"


def _everything(profile: Profile, moved: Sequence[Event], peak_bytes: int) -> Finding:
    total = sum(event.bytes for event in moved)
    title = f"Everything fits: keep it on the card and save {format_bytes(total)} of uploads"
    return _hint(
        profile, "everything_fits", title, moved, peak_bytes=peak_bytes, fix='pipe.to("cuda")'
    )


def _one_component(
    profile: Profile, moved: Sequence[Event], names: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield the component with the most uploads among those that would fit on their own."""
    usable = usable_bytes(profile)
    peaks = {name: peak_with(profile, [name]) for name in names}
    traffic = {
        name: [e for e in moved if e.component == name] for name in names if peaks[name] <= usable
    }
    if traffic:
        name = max(traffic, key=lambda name: sum(event.bytes for event in traffic[name]))
        total = sum(event.bytes for event in traffic[name])
        title = f"{name} fits: keep it on the card and save {format_bytes(total)} of uploads"
        line = plan_line(profile)
        yield _hint(
            profile, "keep_resident", title, traffic[name], peak_bytes=peaks[name], fix=line
        )


def _whole_components(
    profile: Profile, moved: Sequence[Event], peak_bytes: int
) -> Iterator[Finding]:
    """Yield that model offload would fit, where that saves a tenth of the uploads or more."""
    calls = len({event.call for event in moved})
    whole = calls * sum(part.bytes for part in profile.components)
    total = sum(event.bytes for event in moved)
    if whole <= 0.9 * total:
        saved = format_bytes(total - whole)
        title = f"Whole components fit, one at a time: model offload saves {saved} of uploads"
        line = "pipe.enable_model_cpu_offload()"
        yield _hint(profile, "model_offload_fits", title, moved, peak_bytes=peak_bytes, fix=line)


def _hint(
    profile: Profile, kind: str, title: str, moved: Sequence[Event], *, peak_bytes: int, fix: str
) -> Finding:
    return Finding(
        kind=kind,
        severity=HINT,
        title=title,
        detail=f"The peak would be {format_bytes(peak_bytes)} allocated at most; the card leaves "
        f"{format_bytes(usable_bytes(profile))} after context, slack and error band.",
        fix=fix,
        bytes=sum(event.bytes for event in moved),
        components=tuple(dict.fromkeys(event.component for event in moved)),
        events=ordinals(moved),
    )


def peak_with(profile: Profile, names: Sequence[str]) -> int:
    """Return an upper bound of the allocated peak if `names` had been on the card all the time."""
    absent = _Absent(profile)
    missing = sum(absent.bytes[name] for name in names)
    highest = 0
    for event in profile.events:
        lead_bytes = event.lead_peak_bytes + missing
        missing += absent.change(event) if event.component in names else 0
        highest = max(highest, lead_bytes, event.after_bytes + missing, event.peak_bytes)
    return highest


def peak_while_used(profile: Profile) -> int:
    """Return an upper bound of the allocated peak if each component had been there as a whole while it was used."""
    absent = _Absent(profile)
    entered: list[str] = []
    highest = 0
    for event in profile.events:
        missing = sum(absent.bytes.get(name, 0) for name in set(entered))
        highest = max(highest, event.lead_peak_bytes + missing, event.peak_bytes)
        absent.change(event)
        if event.kind == "enter":
            entered.append(event.component)
        elif event.kind == "exit" and entered:
            entered.pop()
    return highest


class _Absent:
    """How many bytes of each component are not on the card, followed from event to event."""

    def __init__(self, profile: Profile) -> None:
        resident = reading.initial_resident_bytes(profile)
        self.whole = {part.name: part.allocated_bytes for part in profile.components}
        self.bytes = {name: max(0, self.whole[name] - resident[name]) for name in self.whole}

    def change(self, event: Event) -> int:
        """Take `event` in, and return by how much more of its component is absent after it."""
        if event.component not in self.whole:
            return 0
        before = self.bytes[event.component]
        self.bytes[event.component] = max(0, self.whole[event.component] - event.resident_bytes)
        return self.bytes[event.component] - before


def usable_bytes(profile: Profile) -> int:
    """Return what allocations may take: capacity less context, overhead as observed or stated, and error band."""
    observed = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
    overhead = max(profile.gpu.slack_bytes, observed)
    usable = profile.gpu.capacity_bytes - profile.gpu.context_bytes - overhead
    return int(usable / (1 + profile.error_band))
