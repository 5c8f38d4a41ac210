"""Findings about what could stay on the GPU: everything, one component, each component while used, some blocks.

Each peak is an upper bound from the record: the bytes missing on the GPU at an event are added to that event's peak.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from profiler.checking.code_words import quoted
from profiler.findings import fixes
from profiler.findings.evidence import ordinals, waited_seconds
from profiler.record import readings as reading
from profiler.record.finding import HINT, Finding
from profiler.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.record.events import Event
    from profiler.record.profile import Profile

_RESIDENT = fixes.Fix('pipe.to("cuda")', {"mode": "resident"})
_KEEPS = {
    "sequential": "pipe._exclude_from_cpu_offload = [{name}]  # before enable_sequential_cpu_offload()",
    "group-block": "pipe.enable_group_offload(..., exclude_modules=[{name}])",
    "group-leaf": "pipe.enable_group_offload(..., exclude_modules=[{name}])",
}
"""Lines with which diffusers keeps one component on the GPU, by mode. Under model offload it cannot."""


class Candidate(NamedTuple):
    """Components that could stay, and the effect of that."""

    peak_bytes: int  # allocated, at most
    moved: Sequence[Event]  # uploads, all or some of which would not happen
    seconds: float  # by which the run would be shorter


def could_stay(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for the placement that could stay and would save the most uploads."""
    moved = [event for event in profile.events if _uploads(event)]
    names = tuple(
        part.name for part in profile.components if any(e.component == part.name for e in moved)
    )
    usable = usable_bytes(profile)
    if not names:
        return
    everything = peak_with(profile, [part.name for part in profile.components])
    if everything <= usable and not fixes.is_slower(profile, _RESIDENT.changes):
        yield _everything(profile, moved, everything)
        return
    alone = _one_component(profile, moved, names)
    whole = [] if profile.mode == "model" else list(_whole_components(profile, moved))
    faster = [one for one in (*alone, *whole) if not fixes.is_slower(profile, one.changes)]
    found = max(faster, key=lambda finding: finding.bytes, default=None)
    if found:
        yield found
    elif profile.mode != "model":
        yield from _some_blocks(profile, moved)


def _uploads(event: Event) -> bool:
    return (
        event.call >= 0
        and event.kind == "onload"
        and bool(event.component)
        and reading.direction(event) == "h2d"
    )


def _everything(profile: Profile, moved: Sequence[Event], peak_bytes: int) -> Finding:
    total = sum(event.bytes for event in moved)
    inside = [event for event in profile.events if event.call >= 0]
    known = profile.totals.exposed_transfer_seconds is not None
    waits = inside if known else [event for event in inside if reading.direction(event)]
    stay = Candidate(peak_bytes, moved, waited_seconds(profile, waits))
    title = f"Everything fits: keep it on the GPU and save {format_bytes(total)} of uploads"
    return _hint(profile, "everything_fits", title, stay, _RESIDENT)


def _one_component(
    profile: Profile, moved: Sequence[Event], names: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield a finding for the component with the most uploads among those that would fit on their own."""
    usable = usable_bytes(profile)
    peaks = {name: peak_with(profile, [name]) for name in names}
    traffic = {
        name: [e for e in moved if e.component == name] for name in names if peaks[name] <= usable
    }
    if traffic:
        name = max(traffic, key=lambda name: sum(event.bytes for event in traffic[name]))
        saved = traffic[name]
        copies = [e for e in profile.events if e.component == name and reading.direction(e)]
        seconds = waited_seconds(profile, [event for event in copies if event.call >= 0])
        stay = Candidate(peaks[name], saved, seconds)
        total = sum(event.bytes for event in saved)
        title = f"{name} fits: keep it ({_change(profile, stay)}) and save {format_bytes(total)} of uploads"
        yield _hint(profile, "keep_resident", title, stay, _kept(profile, name))


def _kept(profile: Profile, name: str) -> fixes.Fix:
    """Return the fix that keeps a component on the GPU."""
    plan = fixes.Fix(fixes.plan_line(profile), {"mode": "plan", f"{fixes.KEEP}{name}": True})
    if profile.mode not in _KEEPS:
        return plan
    own = {"mode": profile.mode, f"{fixes.KEEP}{name}": True}
    return fixes.Fix(_KEEPS[profile.mode].format(name=quoted(name)), own)


def _change(profile: Profile, stay: Candidate) -> str:
    """Return the cost and the saving of keeping it: `+0.80 GiB, -2.1 s`."""
    more = f"+{format_bytes(_more_bytes(profile, stay))}"
    return f"{more}, -{format_seconds(stay.seconds)}" if stay.seconds else more


def _more_bytes(profile: Profile, stay: Candidate) -> int:
    return max(stay.peak_bytes - profile.totals.peak_allocated_bytes, 0)


def _whole_components(profile: Profile, moved: Sequence[Event]) -> Iterator[Finding]:
    """Yield a finding if model offload would fit, and save a tenth of the uploads or more."""
    peak = peak_while_used(profile)
    calls = len({event.call for event in moved})
    whole = calls * sum(part.bytes for part in profile.components)
    total = sum(event.bytes for event in moved)
    if peak <= usable_bytes(profile) and whole <= 0.9 * total:
        saved = total - whole
        stay = Candidate(peak, moved, waited_seconds(profile, moved) * saved / total)
        title = f"Whole components fit, one at a time: model offload saves {format_bytes(saved)} of uploads"
        fix = fixes.Fix("pipe.enable_model_cpu_offload()", {"mode": "model"})
        hint = _hint(profile, "model_offload_fits", title, stay, fix)
        yield dataclasses.replace(hint, bytes=saved)


def _some_blocks(profile: Profile, moved: Sequence[Event]) -> Iterator[Finding]:
    """Yield a finding if some blocks of the component with the most uploads fit into the GPU's unused memory."""
    peak = profile.totals.peak_allocated_bytes
    unused = usable_bytes(profile) - peak
    parts = {part.name: part for part in profile.components}
    traffic = {name: sum(e.bytes for e in moved if e.component == name) for name in parts}
    part = parts[max(traffic, key=lambda name: traffic[name])]
    largest = max((block.bytes for block in part.blocks), default=0)
    count = min(unused // largest, len(part.blocks)) if largest else 0
    fix = fixes.planned(profile)
    if count < 1 or fix is fixes.NOTHING_HELPS:
        return
    own = [event for event in moved if event.component == part.name]
    share = sum(sorted(block.bytes for block in part.blocks)[:count]) / part.bytes
    stay = Candidate(peak + count * largest, own, waited_seconds(profile, own) * share)
    title = (
        f"{format_bytes(unused)} of the GPU are never used: {count} of {len(part.blocks)} blocks of {part.name} "
        f"could stay ({_change(profile, stay)})"
    )
    yield _hint(profile, "unused_vram", title, stay, fix)


def _hint(profile: Profile, kind: str, title: str, stay: Candidate, fix: fixes.Fix) -> Finding:
    return Finding(
        kind=kind,
        severity=HINT,
        title=title,
        detail=f"The peak would be {format_bytes(stay.peak_bytes)} allocated at most; the GPU leaves "
        f"{format_bytes(usable_bytes(profile))} after context, slack and error band.",
        fix=fix.line,
        changes=fix.changes,
        bytes=sum(event.bytes for event in stay.moved),
        seconds=stay.seconds,
        more_bytes=_more_bytes(profile, stay),
        is_advice=True,
        components=tuple(dict.fromkeys(event.component for event in stay.moved)),
        events=ordinals(stay.moved),
    )


def peak_with(profile: Profile, names: Sequence[str]) -> int:
    """Return an upper bound of the allocated peak if `names` had been on the GPU all the time."""
    absent = _Absent(profile)
    missing = sum(absent.bytes[name] for name in names)
    highest = 0
    for event in profile.events:
        lead_bytes = event.lead_peak_bytes + missing
        missing += absent.change(event) if event.component in names else 0
        highest = max(highest, lead_bytes, event.after_bytes + missing, event.peak_bytes)
    return highest


def peak_while_used(profile: Profile) -> int:
    """Return an upper bound of the allocated peak if each component had been on the GPU as a whole while in use."""
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
    """The bytes of each component that are not on the GPU, updated event by event."""

    def __init__(self, profile: Profile) -> None:
        resident = reading.initial_resident_bytes(profile)
        self.whole = {part.name: part.allocated_bytes for part in profile.components}
        self.bytes = {name: max(0, self.whole[name] - resident[name]) for name in self.whole}

    def change(self, event: Event) -> int:
        """Update for `event`, and return the increase of its component's absent bytes."""
        if event.component not in self.whole:
            return 0
        before = self.bytes[event.component]
        self.bytes[event.component] = max(0, self.whole[event.component] - event.resident_bytes)
        return self.bytes[event.component] - before


def usable_bytes(profile: Profile) -> int:
    """Return the bytes that allocations may take: capacity less context, observed or stated overhead, error band."""
    observed = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
    overhead = max(profile.gpu.slack_bytes, observed)
    usable = profile.gpu.capacity_bytes - profile.gpu.context_bytes - overhead
    return int(usable / (1 + profile.error_band))
