"""Findings about model offload: pitfalls of stock diffusers and accelerate that a run encountered."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from profiler.checking.code_words import quoted
from profiler.findings import fixes
from profiler.findings.evidence import conditions, ordinals, waited_seconds
from profiler.record import readings as reading
from profiler.record import verdict as verdicts
from profiler.record.finding import EVIDENCE, HINT, WASTE, Finding, listed
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.events import Event
    from profiler.record.profile import Profile


def ignored_exclusions(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if excluded components are in the sequence: the exclusion has no effect."""
    ignored = tuple(name for name in profile.excluded if name in profile.sequence)
    moved = [
        event for event in profile.events if event.component in ignored and reading.direction(event)
    ]
    if not moved:
        return
    rest = "->".join(name for name in profile.sequence if name not in ignored)
    yield Finding(
        kind="exclusion_ignored",
        severity=WASTE,
        title=f"The exclusion of {listed(ignored)} is ignored",
        detail="diffusers ignores _exclude_from_cpu_offload for a component that model_cpu_offload_seq names.",
        fix=f"pipe.model_cpu_offload_seq = {quoted(rest)}  # before enable_model_cpu_offload()",
        changes={"mode": "model"} | {f"{fixes.KEEP}{name}": True for name in ignored},
        bytes=sum(event.bytes for event in moved),
        seconds=waited_seconds(profile, moved),
        components=ignored,
        events=ordinals(moved),
    )


def excluded_travel(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if excluded components were moved to the CPU and back at the end of a call."""
    excluded = {name for name in profile.excluded if name not in profile.sequence}
    moved = [
        event
        for event in profile.events
        if event.component in excluded and reading.direction(event)
    ]
    moved = [event for event in moved if event.phase != "place" and event.kind != "copy"]
    if not any(event.kind == "offload" for event in moved):
        return
    names = tuple(
        part.name
        for part in profile.components
        if part.name in {event.component for event in moved}
    )
    total = sum(event.bytes for event in moved)
    fix = fixes.planned(profile, keeping=names)
    yield Finding(
        kind="excluded_travel",
        severity=WASTE,
        title=f"{listed(names)} moved {format_bytes(total)} although excluded from offload",
        detail="At the end of every call maybe_free_model_hooks() enables offload again: everything goes to the CPU, "
        "and what is excluded comes back. A plan with sticky exclusion leaves it where it is.",
        fix=fix.line,
        changes=fix.changes,
        bytes=total,
        seconds=waited_seconds(profile, moved),
        components=names,
        events=ordinals(moved),
    )


def quantised_stays(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a quantised component was moved to the CPU and left bytes on the GPU."""
    left = left_behind(profile)
    if not left:
        return
    kinds = {part.quantization for part in profile.components if part.name in left}
    yield Finding(
        kind="quantised_stays",
        severity=WASTE,
        title=f"{listed(tuple(left))} left {format_bytes(sum(e.resident_bytes for e in left.values()))} on the GPU "
        "when sent to the CPU",
        detail=f"{listed(sorted(kinds))} keeps a copy of the weights on the GPU that .to() does not move.",
        fix="load it in 4 bit, or with another library: those weights move as a whole",
        changes={"quantization": "4 bit"},
        bytes=sum(event.resident_bytes for event in left.values()),
        components=tuple(left),
        events=ordinals(tuple(left.values())),
    )


def left_behind(profile: Profile) -> dict[str, Event]:
    """Return the first whole offload of each quantised component that left bytes on the GPU."""
    quantised = {part.name for part in profile.components if part.quantization}
    found: dict[str, Event] = {}
    for event in profile.events:
        whole = event.kind == "offload" and not event.group and event.to_device == "cpu"
        if whole and event.component in quantised and event.resident_bytes:
            found.setdefault(event.component, event)
    return found


class Idle(NamedTuple):
    """A component that had bytes on the GPU, idle, when another component's forward ended."""

    component: str
    ordinal: int  # of the other component's exit
    bytes: int
    user: str  # the other component


def idle_resident(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for hooked components that stayed on the GPU while another one was used.

    Components that another finding explains (a foreign hook, a move by hand) are left to that finding.
    """
    if profile.is_modular:
        return  # a ComponentsManager lets models stay as long as they fit
    explained = {one.component for one in conditions(profile, "foreign_hook")}
    if any(one.user in explained for one in idle(profile)):
        return
    reported = {*brought_by_hand(profile), *left_behind(profile)}
    idles = [one for one in idle(profile) if one.component not in reported]
    outside = [one for one in idles if one.component not in profile.sequence]
    inside = [one for one in idles if one.component in profile.sequence]
    if inside:
        why = "Each hook evicts only its predecessor in the sequence"
        yield _idle(profile, inside, "idle_resident", why)
    if outside:
        names = listed([one.component for one in outside])
        verb = "stands" if len(outside) == 1 else "stand"
        why = f"{names} {verb} outside the sequence, so that no hook evicts it before the end of the call"
        yield _idle(profile, outside, "outside_sequence", why)


def _idle(profile: Profile, idles: list[Idle], kind: str, why: str) -> Finding:
    names = tuple(one.component for one in idles)
    fits = verdicts.verdict(profile).answer == verdicts.FITS
    fix = fixes.planned(profile, off=names)
    return Finding(
        kind=kind,
        severity=HINT if fits else WASTE,  # if there is room, staying costs nothing
        title=f"{listed(names)} stayed on the GPU while another component was used",
        detail=f"{why}. Used: {used_order(profile)}. Sequence: {' -> '.join(profile.sequence)}.",
        fix=fix.line,
        changes=fix.changes,
        bytes=sum(one.bytes for one in idles),
        components=names,
        events=tuple(one.ordinal for one in idles)[:EVIDENCE],
        gives_way=fits,
    )


def idle(profile: Profile) -> tuple[Idle, ...]:
    """Return the first time at which each hooked component was idle on the GPU.

    Components that take turns within the denoise loop do not count: moving them at each step would cost more.
    """
    hooked = [part.name for part in profile.components if part.name not in profile.excluded]
    looped = {
        (event.call, event.component)
        for event in profile.events
        if event.kind == "enter" and event.phase == "denoise"
    }
    found: dict[str, Idle] = {}
    entered: list[str] = []
    resident = reading.initial_resident_bytes(profile)
    for event in profile.events:
        if event.component in resident:
            resident[event.component] = event.resident_bytes
        if event.kind == "enter":
            entered.append(event.component)
        if event.kind != "exit":
            continue
        for name in hooked:
            turns = event.phase == "denoise" and (event.call, name) in looped
            if name not in entered and resident[name] and not turns:
                found.setdefault(name, Idle(name, event.ordinal, resident[name], event.component))
        if event.component in entered:
            entered.remove(event.component)
    return tuple(found.values())


def brought_by_hand(profile: Profile) -> dict[str, int]:
    """Return the components that `pipe.to` moved to the GPU after offload was enabled, with the event."""
    found: dict[str, int] = {}
    for event in profile.events:
        if event.asked_by == "pipeline.to" and event.kind == "onload":
            found[event.component] = event.ordinal
        elif event.kind == "offload" and event.asked_by in ENABLERS and event.call < 0:
            found.pop(event.component, None)
    return found


ENABLERS = (
    "pipeline.enable_model_cpu_offload",
    "pipeline.enable_sequential_cpu_offload",
    "pipeline.enable_group_offload",
)


def used_order(profile: Profile) -> str:
    """Return the first few components in the order in which they were entered."""
    used = [event.component for event in profile.events if event.kind == "enter"]
    order = used[:1] + [later for earlier, later in pairwise(used) if earlier != later]
    return " -> ".join(order[:EVIDENCE]) + (" ..." if len(order) > EVIDENCE else "")
