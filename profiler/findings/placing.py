"""Findings about the placing of a pipeline: moves that offloading undoes, moves that undo it, and changed modes."""

from __future__ import annotations

from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

from profiler.findings.evidence import conditions, ordinals, waited_seconds
from profiler.findings.offload import ENABLERS, brought_by_hand
from profiler.record import readings as reading
from profiler.record.finding import WASTE, Finding, listed
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.events import Event
    from profiler.record.profile import Profile

_LINES = {
    "model": "pipe.enable_model_cpu_offload()",
    "sequential": "pipe.enable_sequential_cpu_offload()",
    "resident": 'pipe.to("cuda")',
}


def on_card_before(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if enabling offload had to move components off the GPU before any call used them."""
    placed = list(takewhile(lambda event: event.kind != "begin", profile.events))
    went = [event for event in placed if event.kind == "offload" and event.asked_by in ENABLERS]
    brought = {event.component for event in placed if event.kind == "onload"}
    # Quantised weights are on the GPU from loading on.
    own = {p.name for p in profile.components if p.quantization and p.name not in brought}
    went = [event for event in went if event.component not in {*profile.excluded, *own}]
    if not went:
        return
    names = {event.component: event for event in went}
    came = [
        event
        for event in profile.events[: went[-1].ordinal]
        if event.kind == "onload" and event.component in names
    ]
    moved = [*came, *went]
    held = sum(event.bytes for event in names.values())
    yield Finding(
        kind="on_card_before_offload",
        severity=WASTE,
        title=f"{listed(tuple(names))} {'was' if len(names) == 1 else 'were'} on the GPU when offload was enabled",
        detail=f"Enabling offload takes everything to the CPU, so the GPU had to hold {format_bytes(held)} at once, "
        "for nothing.",
        fix=f'{_LINES.get(profile.mode, _LINES["model"])}  # without pipe.to("cuda") before it',
        changes={"mode": profile.mode if profile.mode in _LINES else "model"},
        bytes=sum(event.bytes for event in moved),
        seconds=waited_seconds(profile, moved),
        components=tuple(names),
        events=ordinals(moved),
    )


def moved_by_hand(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if `pipe.to("cuda")` was called after model offload had been enabled."""
    brought = brought_by_hand(profile)
    events = [profile.events[ordinal] for ordinal in brought.values()]
    if not events:
        return
    yield Finding(
        kind="moved_after_offload",
        severity=WASTE,
        title=f'pipe.to("cuda") brought {listed(tuple(brought))} to the GPU although offload was enabled',
        detail="The hooks stay, but until the end of the next call each evicts its predecessor only: the rest is on "
        "the GPU at once.",
        fix='pipe.enable_model_cpu_offload()  # and no pipe.to("cuda") after it',
        changes={"mode": "model"},
        bytes=sum(event.bytes for event in events),
        seconds=waited_seconds(profile, events),
        components=tuple(brought),
        events=ordinals(events),
    )


def mode_changes(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for each change of the offload mode between calls after which calls moved more weights."""
    tallies = dict(reading.calls(profile))
    for before, after in pairwise(conditions(profile, "mode")):
        if before.call not in tallies or after.call not in tallies:
            continue
        earlier, later = tallies[before.call], tallies[after.call]
        more = later.h2d_weight_bytes - earlier.h2d_weight_bytes
        if more <= 0:
            continue
        moved = [event for event in profile.events if _uploads(event, after.call)]
        yield Finding(
            kind="mode_changed",
            severity=WASTE,
            title=f"Offload changed from {before.detail} to {after.detail} before call {after.call}: "
            f"{format_bytes(more)} more uploads",
            detail="Loading a LoRA enables offload again, as sequential offload wherever a component carries an "
            "AlignDevicesHook (from a device map, for example).",
            fix=_LINES.get(before.detail, "repeat the call that placed the pipe")
            + "  # again, after loading",
            changes={"mode": before.detail},
            bytes=more,
            seconds=max(later.seconds - earlier.seconds, 0.0),
            components=tuple(dict.fromkeys(event.component for event in moved)),
            events=ordinals(moved),
        )


def _uploads(event: Event, call: int) -> bool:
    return event.call == call and event.kind == "onload" and reading.direction(event) == "h2d"
