"""The peaks of a recorded run: of the whole run, of each phase, and of each component's own work."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from profiler.record.cache import once_per_profile
from profiler.record.events import Moment

if TYPE_CHECKING:
    from profiler.record.profile import Profile

MOVES = ("onload", "offload", "cast", "copy")


def peak_moment(profile: Profile) -> Moment | None:
    """Return the peak of the run, the first of equals; None without events."""
    return max(_moments(profile), key=lambda moment: moment.peak_bytes, default=None)


def phase_peaks(profile: Profile) -> dict[str, Moment]:
    """Return the peak of each phase that occurs."""
    worst: dict[str, Moment] = {}
    for moment in _moments(profile):
        if moment.phase not in worst or moment.peak_bytes > worst[moment.phase].peak_bytes:
            worst[moment.phase] = moment
    return worst


def compute_peaks(profile: Profile) -> dict[str, Moment]:
    """Return the peak of each component that was called, while it computed."""
    worst: dict[str, Moment] = {}
    for moment in _moments(profile):
        name = moment.component
        computes = name and moment.doing not in MOVES
        if computes and (name not in worst or moment.peak_bytes > worst[name].peak_bytes):
            worst[name] = moment
    return worst


@once_per_profile
def not_begun(profile: Profile) -> frozenset[int]:
    """Return the ordinals of the gaps in which a component had been entered but could not begin: its move failed.

    Weights are moved after a component is entered and before it computes. Under group offload it may have computed
    before the move that failed; then memory rose between two of its events.
    """
    failure = profile.failure
    if failure is None or failure.doing not in MOVES:
        return frozenset()
    own = [e for e in profile.events if e.component == failure.component]
    passed = [e for e in own if e.kind in ("enter", "exit") and e.ordinal <= failure.ordinal]
    if not passed or passed[-1].kind == "exit":
        return frozenset()
    entered = passed[-1].ordinal
    left = (e.ordinal for e in own if e.kind == "exit" and e.ordinal > failure.ordinal)
    inside = profile.events[entered : next(left, len(profile.events)) + 1]
    rose = any(
        event.lead_peak_bytes > max(before.after_bytes, event.before_bytes)
        for before, event in pairwise(inside)
    )
    return frozenset() if rose else frozenset(event.ordinal for event in inside[1:])


@once_per_profile
def _moments(profile: Profile) -> list[Moment]:
    """Return the peak of each event's gap, and of each event that moves bytes.

    In a gap the innermost entered component computes, if memory rose above both ends of the gap or its exit ends it.
    """
    moments: list[Moment] = []
    entered: list[tuple[str, str]] = []
    previous_bytes = 0
    idle = not_begun(profile)
    for event in profile.events:
        name, doing = "", ""
        if event.kind == "exit" and event.ordinal not in idle:
            name, doing = event.component, event.entry
        elif entered and event.lead_peak_bytes > max(previous_bytes, event.before_bytes):
            name, doing = entered[-1]
        place = (event.phase, event.step)
        moments.append(Moment(event.ordinal, event.lead_peak_bytes, *place, name, doing))
        if event.kind in MOVES:
            moving = (event.component, event.kind)
            moments.append(Moment(event.ordinal, event.peak_bytes, *place, *moving))
        if event.kind == "enter":
            entered.append((event.component, event.entry))
        elif event.kind == "exit" and entered:
            entered.pop()
        previous_bytes = event.after_bytes
    return moments
