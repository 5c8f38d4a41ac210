"""One fact of a run that is worth acting on, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    # What the fix changes of the run, by name: `mode` (of `modes.MODES`, or "plan"), `vae_tiling`, `dtype`, `size`,
    # `keep unet`, ...; empty if it changes nothing that another fix could change otherwise.
    changes: dict[str, Any]
    bytes: int  # how much memory or traffic is at stake
    components: tuple[str, ...] = ()
    events: tuple[int, ...] = ()  # ordinals of the events that prove it, at most EVIDENCE of them
    seconds: float = 0.0  # how long the traffic was waited for, or what the fix saves; 0 where none
    more_bytes: int = 0  # by how much the fix raises the peak, at most
    is_advice: bool = (
        False  # nothing happened that is worth telling if the fix is not to be followed
    )
    gives_way: bool = False  # its fix is not followed if any other finding's excludes it

    @property
    def evidence(self) -> str:
        """Return cost and events as text: `1.20 GiB, 0.30 s; events 12, 40 and 41`."""
        cost = [format_bytes(self.bytes)] if self.bytes else []
        cost += [format_seconds(self.seconds)] if self.seconds else []
        numbers = [str(ordinal) for ordinal in self.events]
        named = f"event{'s' if len(numbers) > 1 else ''} {listed(numbers)}" if numbers else ""
        return "; ".join(part for part in (", ".join(cost), named) if part)


def listed(names: Sequence[str]) -> str:
    """Return names as text: `unet`, `unet and vae`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
