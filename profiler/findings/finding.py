"""One fact of a run that is worth acting on, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.profile import Event, Profile

PROBLEM = "problem"
WASTE = "waste"
HINT = "hint"
EVIDENCE = 8  # events named at most; the rest follows from the record


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact of the run that is worth acting on."""

    kind: str  # stable identifier
    severity: str  # PROBLEM: it fails or may; WASTE: bytes moved or held for nothing; HINT: it could be faster
    title: str
    detail: str
    fix: str  # a line of code, or of advice where no line helps
    bytes: int  # how much memory or traffic is at stake
    components: tuple[str, ...] = ()
    events: tuple[int, ...] = ()  # ordinals of the events that prove it, at most EVIDENCE of them

    @property
    def evidence(self) -> str:
        """Return the events as text: `events 12, 40 and 41`."""
        numbers = [str(ordinal) for ordinal in self.events]
        if not numbers:
            return ""
        return f"event{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def ordinals(events: Sequence[Event]) -> tuple[int, ...]:
    """Return the first few events as evidence."""
    return tuple(event.ordinal for event in events[:EVIDENCE])


def listed(names: Sequence[str]) -> str:
    """Return names as text: `unet`, `unet and vae`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plan_line(profile: Profile) -> str:
    """Return the line that finds the best plan for the card, and applies it."""
    return f"profiler.plan_offload(profile, {profile.gpu.capacity_bytes}).apply(pipe)"
