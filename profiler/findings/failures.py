"""Findings about runs that ended early, where the record shows a way around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.findings.finding import PROBLEM, Finding
from profiler.verdict import ran_out_of_memory

if TYPE_CHECKING:
    from profiler.profile import Profile


def ended_early(profile: Profile) -> list[Finding]:
    """Return why a run that did not run out of memory ended, and what would get it to its end."""
    if profile.complete or ran_out_of_memory(profile):
        return []
    component, events = _where(profile)
    return [
        Finding(
            kind="incomplete",
            severity=PROBLEM,
            title="The run ended early",
            detail=profile.error,
            fix=_way_around(profile, component),
            bytes=0,
            components=(component,) if component else (),
            events=events,
        )
    ]


def _where(profile: Profile) -> tuple[str, tuple[int, ...]]:
    left = next((event for event in reversed(profile.events) if event.kind == "exit"), None)
    return ("", ()) if left is None else (left.component, (left.ordinal,))


def _way_around(profile: Profile, component: str) -> str:
    """Return what keeps a component out of the group offload that it failed under.

    diffusers 0.42.1: pinned copies do not follow a cast of the VAE, and hooks on `forward` do not fire for the `decode`
    of a VAE that names no blocks.
    """
    if profile.mode.startswith("group") and component and component not in profile.denoisers:
        return f'pipe.enable_group_offload(..., exclude_modules=["{component}"])'
    return "repair the cause and profile again"
