"""Findings about GPUs that share the host's memory: weights that were copied within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.findings import fixes
from profiler.findings.evidence import ordinals, waited_seconds
from profiler.record import readings as reading
from profiler.record.finding import WASTE, Finding
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.events import Event
    from profiler.record.profile import Profile


def _moves_weights(event: Event) -> bool:
    return event.kind != "copy" and bool(reading.direction(event))


def moved_within(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a call moved weights between host and GPU where both are in one memory."""
    if not profile.gpu.unified_memory:
        return
    moved = [event for event in profile.events if _moves_weights(event) and event.call >= 0]
    if not moved:
        return
    total = sum(event.bytes for event in moved)
    yield Finding(
        kind="offload_in_one_memory",
        severity=WASTE,
        title=f"{format_bytes(total)} of weights were copied within one memory, which frees none of it",
        detail=f"Host and GPU of {profile.gpu.name} share their memory: weights that leave the GPU take as much on the "
        "host, and a copy that is kept there, as with pinned memory or group offload, takes it twice.",
        fix=fixes.RESIDENT.line,
        changes=fixes.RESIDENT.changes,
        bytes=total,
        seconds=waited_seconds(profile, moved),
        components=tuple(dict.fromkeys(event.component for event in moved)),
        events=ordinals(moved),
    )
