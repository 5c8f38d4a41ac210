"""Findings about room: what does not fit, what could stay, what pins more RAM than it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import record_reading as reading
from profiler import verdict as verdicts
from profiler.findings.finding import HINT, PROBLEM, WASTE, Finding, ordinals, plan_line
from profiler.units import format_bytes, format_fraction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.profile import Component, Event, Profile


def room(profile: Profile) -> Iterator[Finding]:
    """Yield a finding where the run does not fit its card for sure, or ended early."""
    verdict = verdicts.verdict(profile)
    capacity = format_bytes(profile.gpu.capacity_bytes)
    short = -verdict.spare_bytes
    if verdicts.ran_out_of_memory(profile):
        yield _at_peak(
            profile, "out_of_memory", f"Out of memory on a card of {capacity}", profile.error
        )
    elif not profile.complete:
        yield _at_peak(profile, "incomplete", "The run ended early", profile.error)
    elif verdict.answer == verdicts.DOES_NOT_FIT:
        title = f"Does not fit {capacity}: {format_bytes(short)} too much"
        yield _at_peak(profile, "does_not_fit", title, _arithmetic(profile), short)
    elif verdict.answer == verdicts.TIGHT:
        title = (
            f"Fits {capacity}, but not with the error band of {format_fraction(profile.error_band)}"
        )
        yield _at_peak(profile, "tight", title, _arithmetic(profile), short)


def _at_peak(
    profile: Profile, kind: str, title: str, detail: str, at_stake_bytes: int = 0
) -> Finding:
    moment = reading.peak_moment(profile)
    fix = (
        "repair the cause and profile again"
        if kind == "incomplete"
        else _less_memory(profile, moment)
    )
    return Finding(
        kind=kind,
        severity=PROBLEM,
        title=title,
        detail=detail,
        fix=fix,
        bytes=at_stake_bytes,
        components=(moment.component,) if moment and moment.component else (),
        events=(moment.ordinal,) if moment else (),
    )


def _arithmetic(profile: Profile) -> str:
    verdict = verdicts.verdict(profile)
    parts = [f"context {format_bytes(profile.gpu.context_bytes)}"]
    parts.append(
        f"reserved {format_bytes(profile.totals.device_bytes - profile.gpu.context_bytes)}"
    )
    if verdict.band_bytes:
        parts.append(f"error band {format_bytes(verdict.band_bytes)}")
    return f"{' + '.join(parts)} = {format_bytes(verdict.needed_bytes)}."


def _less_memory(profile: Profile, moment: reading.Moment | None) -> str:
    """Return the next thing to try, by what the run did already and where it was fullest."""
    if profile.mode == "resident":
        return "pipe.enable_model_cpu_offload()"
    if moment and moment.doing == "decode" and moment.component:
        return f"pipe.{moment.component}.enable_tiling()"
    if profile.mode == "model":
        return 'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")'
    if profile.mode == "group-block":
        return 'pipe.enable_group_offload(..., offload_type="leaf_level")'
    return "a smaller height, width or batch: this mode already holds the fewest weights"


def pinned(profile: Profile) -> Iterator[Finding]:
    """Yield a finding where pinned host memory is far more than the weights in it (a quarter or more)."""
    pinned = profile.totals.host_pinned_bytes
    weights = sum(part.bytes for part in profile.components)
    if pinned <= weights * 5 // 4:
        return
    yield Finding(
        kind="pinned_rounding",
        severity=WASTE,
        title=f"{format_bytes(pinned)} of pinned RAM hold {format_bytes(weights)} of weights",
        detail="PyTorch rounds every pinned block up to a power of two, and group offload with a stream pins all weights.",
        fix="low_cpu_mem_usage=True pins one group at a time; use_stream=False pins nothing",
        bytes=pinned - weights,
    )


def could_stay(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for what would fit if it stayed: everything, or else the component that travels most."""
    moved = [
        event for event in profile.events if event.kind == "onload" and reading.direction(event)
    ]
    travelling = {event.component for event in moved if event.component}
    parts = [part for part in profile.components if part.name in travelling]
    if not parts:
        return
    if _peak_with(profile, profile.components) <= _usable_bytes(profile):
        yield _stay_finding(profile, moved, "everything_fits", "Everything fits", 'pipe.to("cuda")')
        return
    fitting = [part for part in parts if _peak_with(profile, (part,)) <= _usable_bytes(profile)]
    traffic = {
        part.name: [event for event in moved if event.component == part.name] for part in fitting
    }
    if fitting:
        name = max(traffic, key=lambda name: sum(event.bytes for event in traffic[name]))
        yield _stay_finding(
            profile, traffic[name], "keep_resident", f"{name} fits", plan_line(profile)
        )


def _stay_finding(profile: Profile, moved: list[Event], kind: str, what: str, fix: str) -> Finding:
    names = tuple(dict.fromkeys(event.component for event in moved if event.component))
    parts = (
        profile.components
        if kind == "everything_fits"
        else [p for p in profile.components if p.name in names]
    )
    total = sum(event.bytes for event in moved)
    peak = _peak_with(profile, tuple(parts))
    return Finding(
        kind=kind,
        severity=HINT,
        title=f"{what}: keep it resident and save {format_bytes(total)} of uploads",
        detail=f"With it on the card throughout, the peak would be {format_bytes(peak)} allocated at most; "
        f"the card leaves {format_bytes(_usable_bytes(profile))} after context, slack and error band.",
        fix=fix,
        bytes=total,
        components=names,
        events=ordinals(moved),
    )


def _peak_with(profile: Profile, parts: tuple[Component, ...]) -> int:
    """Return an upper bound of the allocated peak if `parts` had been on the card all the time."""
    resident = reading.initial_resident_bytes(profile)
    whole = {part.name: part.allocated_bytes for part in parts}
    highest = 0
    for event in profile.events:
        before = sum(max(0, whole[name] - resident[name]) for name in whole)
        if event.component in resident:
            resident[event.component] = event.resident_bytes
        after = sum(max(0, whole[name] - resident[name]) for name in whole)
        highest = max(
            highest, event.lead_peak_bytes + before, event.peak_bytes + min(before, after)
        )
        highest = max(highest, event.before_bytes + before, event.after_bytes + after)
    return highest


def _usable_bytes(profile: Profile) -> int:
    """Return what allocations may take: capacity less context, overhead as observed or stated, and error band."""
    overhead = max(
        profile.gpu.slack_bytes,
        profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes,
    )
    usable = profile.gpu.capacity_bytes - profile.gpu.context_bytes - overhead
    return int(usable / (1 + profile.error_band))
