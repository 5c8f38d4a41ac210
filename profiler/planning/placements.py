"""Where each component of a pipeline lives under model offload.

A `Scheme` is what a user can tell `enable_model_cpu_offload`: the sequence, the exclusion set, and whether an
excluded component stays on the card between calls (`sticky`; stock diffusers sends it to the CPU and back).

Each component has one of three placements: `offload` (a link of the sequence), `outside` (hooked, but neither
evicts nor is evicted before the end of the call), `resident` (excluded). A component named in the sequence is never
excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OFFLOAD, OUTSIDE, RESIDENT = "offload", "outside", "resident"


@dataclass(frozen=True)
class Scheme:
    """One way to set up model offload."""

    sequence: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    sticky: bool = False

    def placement(self, name: str) -> str:
        """Return where the component called `name` lives."""
        if name in self.sequence:
            return OFFLOAD
        return RESIDENT if name in self.excluded else OUTSIDE

    def placements(self, names: Iterable[str]) -> dict[str, str]:
        """Return the placement of each component."""
        return {name: self.placement(name) for name in names}

    def predecessors(self) -> dict[str, str]:
        """Return for each component of the sequence but the first the one that its hook evicts."""
        return dict(zip(self.sequence[1:], self.sequence[:-1], strict=True))

    def successors(self) -> dict[str, str]:
        """Return for each component of the sequence but the last the one whose hook evicts it."""
        return dict(zip(self.sequence[:-1], self.sequence[1:], strict=True))

    def hooked(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the components that carry a hook, in the order in which diffusers places the hooks."""
        outside = (name for name in names if self.placement(name) == OUTSIDE)
        return (*self.sequence, *outside)


def known_part(scheme: Scheme, names: Sequence[str]) -> Scheme:
    """Return what diffusers makes of `scheme` on a pipeline with components of these names."""
    return scheme_for(
        names, sequence=scheme.sequence, excluded=scheme.excluded, sticky=scheme.sticky
    )


def scheme_for(
    names: Sequence[str],
    *,
    sequence: Iterable[str] = (),
    excluded: Iterable[str] = (),
    sticky: bool = False,
) -> Scheme:
    """Return the scheme that diffusers would set up: it ignores unknown names and exclusions of sequenced ones."""
    known = tuple(dict.fromkeys(name for name in sequence if name in names))
    kept = frozenset(name for name in excluded if name in names and name not in known)
    return Scheme(known, kept, sticky)
