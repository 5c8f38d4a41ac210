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
    severity: str  # PROBLEM: it fails or may fail; WASTE: bytes moved or held needlessly; HINT: it could be faster
    title: str
    detail: str
    fix: str  # a line of code, or of advice if no code helps
    # The fix's changes to the run, by name: `mode` (of `modes.MODES`, or "plan"), `vae_tiling`, `dtype`, `size`,
    # `keep unet`, ...; empty if it changes nothing that another fix could change differently.
    changes: dict[str, Any]
    bytes: int  # memory or traffic at stake
    components: tuple[str, ...] = ()
    events: tuple[int, ...] = ()  # ordinals of the events that prove it, at most EVIDENCE of them
    seconds: float = 0.0  # time spent waiting for the traffic, or saved by the fix; 0 for none
    more_bytes: int = 0  # by how much the fix raises the peak, at most
    is_advice: bool = False  # not worth reporting if the fix is not to be followed
    gives_way: bool = False  # its fix gives way to any other finding's fix that excludes it

    @property
    def evidence(self) -> str:
        """The cost and the events as text: `1.20 GiB, 0.30 s; events 12, 40 and 41`."""
        cost = [format_bytes(self.bytes)] if self.bytes else []
        cost += [format_seconds(self.seconds)] if self.seconds else []
        numbers = [str(ordinal) for ordinal in self.events]
        named = f"event{'s' if len(numbers) > 1 else ''} {listed(numbers)}" if numbers else ""
        return "; ".join(part for part in (", ".join(cost), named) if part)


def listed(names: Sequence[str]) -> str:
    """Return names as text: `unet`, `unet and vae`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
