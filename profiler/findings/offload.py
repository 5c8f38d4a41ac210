"""Findings about model offload: stock diffusers' and accelerate's traps, where a run fell into one."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from profiler import record_reading as reading
from profiler.findings.finding import EVIDENCE, WASTE, Finding, listed, ordinals, plan_line
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.profile import Profile


def ignored_exclusions(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for components that are excluded and in the sequence: the exclusion does nothing."""
    ignored = tuple(name for name in profile.excluded if name in profile.sequence)
    if not ignored:
        return
    moved = [
        event for event in profile.events if event.component in ignored and reading.direction(event)
    ]
    rest = "->".join(name for name in profile.sequence if name not in ignored)
    yield Finding(
        kind="exclusion_ignored",
        severity=WASTE,
        title=f"The exclusion of {listed(ignored)} is ignored",
        detail="diffusers ignores _exclude_from_cpu_offload for a component that model_cpu_offload_seq names.",
        fix=f'pipe.model_cpu_offload_seq = "{rest}"  # before enable_model_cpu_offload()',
        bytes=sum(event.bytes for event in moved),
        components=ignored,
        events=ordinals(moved),
    )


def excluded_travel(profile: Profile) -> Iterator[Finding]:
    """Yield a finding where excluded components went to the CPU and back at the end of a call."""
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
    yield Finding(
        kind="excluded_travel",
        severity=WASTE,
        title=f"{listed(names)} moved {format_bytes(total)} although excluded from offload",
        detail="At the end of every call maybe_free_model_hooks() enables offload again: everything goes to the CPU, "
        "and what is excluded comes back. A plan with sticky exclusion leaves it where it is.",
        fix=plan_line(profile),
        bytes=total,
        components=names,
        events=ordinals(moved),
    )


def idle_resident(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for hooked components that stayed on the card while another one was used."""
    hooked = [part.name for part in profile.components if part.name not in profile.excluded]
    idle: dict[str, tuple[int, int]] = {}
    resident = reading.initial_resident_bytes(profile)
    for event in profile.events:
        if event.component in resident:
            resident[event.component] = event.resident_bytes
        if event.kind != "exit":
            continue
        for name in hooked:
            if name != event.component and resident[name]:
                idle.setdefault(name, (event.ordinal, resident[name]))
    if not idle:
        return
    names = tuple(idle)
    held = sum(count for _, count in idle.values())
    yield Finding(
        kind="idle_resident",
        severity=WASTE,
        title=f"{listed(names)} stayed on the card while another component was used",
        detail=_why_idle(profile, names),
        fix=plan_line(profile),
        bytes=held,
        components=names,
        events=tuple(ordinal for ordinal, _ in idle.values())[:EVIDENCE],
    )


def _why_idle(profile: Profile, names: tuple[str, ...]) -> str:
    used = [event.component for event in profile.events if event.kind == "enter"]
    order = used[:1] + [later for earlier, later in pairwise(used) if earlier != later]
    shown = " -> ".join(order[:EVIDENCE]) + (" ..." if len(order) > EVIDENCE else "")
    outside = tuple(name for name in names if name not in profile.sequence)
    reason = "Each hook evicts only its predecessor in the sequence"
    if outside:
        reason += f", and {listed(outside)} stands outside it"
    return f"{reason}. Used: {shown}. Sequence: {' -> '.join(profile.sequence)}."
