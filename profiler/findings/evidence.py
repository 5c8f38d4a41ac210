"""Evidence for findings from a run: events, conditions, and the seconds spent waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.record.finding import EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from profiler.record.events import Event
    from profiler.record.profile import Condition, Profile


def ordinals(events: Sequence[Event]) -> tuple[int, ...]:
    """Return the first few events as evidence."""
    return tuple(event.ordinal for event in events[:EVIDENCE])


def waited_seconds(profile: Profile, events: Iterable[Event]) -> float:
    """Return the time that the run waited for the copies of `events`.

    In a predicted run, that is their exposed transfer time. In a measured run, it is the duration of the moves, since
    torch reports no more.
    """
    known = profile.totals.exposed_transfer_seconds is not None
    return max(
        sum(event.exposed_transfer_seconds if known else event.seconds for event in events), 0.0
    )


def conditions(profile: Profile, what: str) -> tuple[Condition, ...]:
    """Return the conditions of one kind that the tracer recorded."""
    return tuple(one for one in profile.conditions if one.what == what)
