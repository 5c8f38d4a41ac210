"""Placement schemes of a whole pipeline: the vocabulary of plans.

A `Scheme` is one way to place a whole pipeline. Each component has one of these placements:

- `offload`: part of the sequence. Its hook onloads it and evicts its predecessor.
- `outside`: hooked, but it neither evicts another component nor is evicted before the end of the call.
- `resident`: it stays on the GPU. Stock diffusers moves it to the CPU and back at the end of each call; a `sticky`
  scheme does not.
- `group-block`, `group-leaf`, `sequential`: split by diffusers' group offload or accelerate's sequential offload.

In the first three, some blocks may be streamed by themselves (`streamed.Streamed`); the placement then applies to the
rest. An offloaded component leaves the GPU in one of three ways (`evictions`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiler.placements.evictions import COPY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from profiler.placements.placement import Placement

OFFLOAD, OUTSIDE, RESIDENT = "offload", "outside", "resident"
MODIFIERS = ("vae-tiling", "vae-slicing", "fp8")
"""Settings besides placements that lower the peak: the VAE's tiling and slicing, and float8_e4m3fn denoisers."""


@dataclass(frozen=True)
class Scheme:
    """One way to place a pipeline."""

    sequence: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    sticky: bool = False
    inside: Mapping[str, Placement] = field(
        default_factory=dict
    )  # components that are split or streamed
    swaps: Mapping[str, str] = field(default_factory=dict)  # of components that do not `copy`

    def placement(self, name: str) -> str:
        """Return the placement of the component called `name`."""
        inside = self.inside.get(name)
        if inside is not None and not inside.leaves_rest:
            return inside.name
        if name in self.sequence:
            return OFFLOAD
        return RESIDENT if name in self.excluded else OUTSIDE

    def placements(self, names: Iterable[str]) -> dict[str, str]:
        """Return the placement of each component."""
        return {name: self.placement(name) for name in names}

    def split(self, name: str) -> Placement | None:
        """Return the placement that splits the component; None if it is not split."""
        inside = self.inside.get(name)
        return None if inside is None or inside.leaves_rest else inside

    def streamed(self, name: str) -> Placement | None:
        """Return the placement that streams part of the component while its rest moves as a whole, if there is one."""
        inside = self.inside.get(name)
        return inside if inside is not None and inside.leaves_rest else None

    def swap(self, name: str) -> str:
        """Return the way in which the component leaves the GPU: `copy`, `drop` or `pinned`."""
        return self.swaps.get(name, COPY)

    def predecessors(self) -> dict[str, str]:
        """Return, for each component of the sequence except the first, the component that its hook evicts."""
        return dict(zip(self.sequence[1:], self.sequence[:-1], strict=True))

    def successors(self) -> dict[str, str]:
        """Return, for each component of the sequence except the last, the component whose hook evicts it."""
        return dict(zip(self.sequence[:-1], self.sequence[1:], strict=True))

    def hooked(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the components that carry a model-offload hook, in the order in which diffusers attaches the hooks."""
        outside = (name for name in names if self.placement(name) == OUTSIDE)
        return (*self.sequence, *outside)


def known_part(scheme: Scheme, names: Sequence[str]) -> Scheme:
    """Return the scheme that diffusers makes of `scheme` on a pipeline with components of these names."""
    if scheme.excluded.isdisjoint(scheme.sequence) and {
        *scheme.sequence,
        *scheme.excluded,
    }.issubset(names):
        return scheme
    return scheme_for(
        names,
        sequence=scheme.sequence,
        excluded=scheme.excluded,
        sticky=scheme.sticky,
        inside=scheme.inside,
        swaps=scheme.swaps,
    )


def scheme_for(
    names: Sequence[str],
    *,
    sequence: Iterable[str] = (),
    excluded: Iterable[str] = (),
    sticky: bool = False,
    inside: Mapping[str, Placement] | None = None,
    swaps: Mapping[str, str] | None = None,
) -> Scheme:
    """Return the scheme that diffusers would set up: it ignores unknown names and exclusions of sequenced names."""
    known = tuple(dict.fromkeys(name for name in sequence if name in names))
    kept = frozenset(name for name in excluded if name in names and name not in known)
    return Scheme(
        known,
        kept,
        sticky,
        {name: how for name, how in (inside or {}).items() if name in names},
        {name: how for name, how in (swaps or {}).items() if name in names and how != COPY},
    )
