"""What a finding names of its run: events, conditions, and the seconds that were waited for."""

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
    """Return how long the run waited for the copies of `events`.

    Predicted, that is their exposed transfer time. Measured, it is how long the moves took: torch tells no more.
    """
    known = profile.totals.exposed_transfer_seconds is not None
    return max(
        sum(event.exposed_transfer_seconds if known else event.seconds for event in events), 0.0
    )


def conditions(profile: Profile, what: str) -> tuple[Condition, ...]:
    """Return the conditions of a kind that the tracer saw."""
    return tuple(one for one in profile.conditions if one.what == what)
