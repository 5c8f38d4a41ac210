"""How long a call takes under another plan.

Its computing takes as long as ever, its weight copies as long as the link needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.profile import Event, Profile


@dataclass(frozen=True)
class CopyClock:
    """Seconds of a call from the weight bytes that it copies, through pageable memory."""

    h2d_seconds_per_byte: float
    d2h_seconds_per_byte: float
    other_seconds: float | None  # of a call without its weight copies; None where unknown

    def copy_seconds(self, h2d_bytes: int, d2h_bytes: int) -> float:
        """Return the seconds of copying weights."""
        return h2d_bytes * self.h2d_seconds_per_byte + d2h_bytes * self.d2h_seconds_per_byte

    def call_seconds(self, h2d_bytes: int, d2h_bytes: int) -> float | None:
        """Return the seconds of a whole call, or None where they are unknown."""
        if self.other_seconds is None:
            return None
        return self.other_seconds + self.copy_seconds(h2d_bytes, d2h_bytes)


def copy_clock(profile: Profile) -> CopyClock | None:
    """Return the clock of `profile`: its card's rates, else those its own copies achieved, else None."""
    call = max(event.call for event in profile.events)
    moves = [event for event in profile.events if event.kind in ("onload", "offload")]
    h2d = _seconds_per_byte(profile.gpu.h2d_bytes_per_second, moves, "onload")
    d2h = _seconds_per_byte(profile.gpu.d2h_bytes_per_second, moves, "offload")
    if h2d is None or d2h is None:
        return None
    events = [event for event in profile.events if event.call == call]
    whole = events[-1].start_seconds + events[-1].seconds - events[0].start_seconds
    copying = sum(event.seconds for event in moves if event.call == call)
    return CopyClock(h2d, d2h, whole - copying)


def _seconds_per_byte(rate: float, moves: list[Event], kind: str) -> float | None:
    if rate > 0:
        return 1 / rate
    seconds = sum(event.seconds for event in moves if event.kind == kind)
    moved = sum(event.bytes for event in moves if event.kind == kind)
    return seconds / moved if seconds and moved else None
