"""Where each component of a pipeline lives: the vocabulary of plans.

A `Scheme` is one way to place a whole pipeline. Each component is in one of these places:

- `offload`: a link of the sequence. Its hook brings it to the card and evicts its predecessor.
- `outside`: hooked, but neither evicts nor is evicted before the end of the call.
- `resident`: it stays on the card. Stock diffusers sends it to the CPU and back at the end of each call, a `sticky`
  scheme does not.
- `group-block`, `group-leaf`, `sequential`: split, by diffusers' group offload or accelerate's sequential offload.

The first three may hold back some blocks (`Streamed`): those travel by themselves, each while the one before it
computes, and what lives in that place is the rest. What is offloaded goes back by one of three ways (`swaps`): `copy`,
as accelerate does; `drop`, which keeps the host's copy and frees the card's; `pinned`, which keeps it page-locked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.checking.typed_reading import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from profiler.libraries.modes import Mode

OFFLOAD, OUTSIDE, RESIDENT = "offload", "outside", "resident"
GROUP_BLOCK, GROUP_LEAF, SEQUENTIAL = "group-block", "group-leaf", "sequential"
COPY, DROP, PINNED = "copy", "drop", "pinned"
SWAPS = (COPY, DROP, PINNED)
MODIFIERS = ("vae-tiling", "vae-slicing", "fp8")
"""What lowers the peak besides a placement: the VAE's own ways, and denoisers stored as float8_e4m3fn."""


class Grouped(NamedTuple):
    """A component under `apply_group_offloading`."""

    blocks: int = 0  # blocks per group at block level; 0 for leaf level
    stream: bool = False
    record_stream: bool = False
    low_cpu_mem: bool = False
    disk: bool = False

    @property
    def place(self) -> str:
        """The name of this placement."""
        return GROUP_BLOCK if self.blocks else GROUP_LEAF


class Sequential(NamedTuple):
    """A component under accelerate's `cpu_offload`, as `enable_sequential_cpu_offload` calls it."""

    place: str = SEQUENTIAL


class Streamed(NamedTuple):
    """A component of whose blocks only some live where the component lives; the others travel one by one."""

    resident_blocks: int


Split = Grouped | Sequential
Inside = Split | Streamed
_KINDS: dict[str, type[Inside]] = {
    "grouped": Grouped,
    "sequential": Sequential,
    "streamed": Streamed,
}


def inside_record(inside: Inside) -> dict[str, Any]:
    """Return plain data for JSON, which `inside_of` reads."""
    kind = next(name for name, kind in _KINDS.items() if isinstance(inside, kind))
    return {"kind": kind, **inside._asdict()}


def inside_of(record: Mapping[str, Any]) -> Inside:
    """Return what `inside_record` wrote.

    Raises:
        ValueError: if it is something else.
    """
    kind = _KINDS.get(str(record.get("kind")))
    if kind is None or not {*record} <= {"kind", *kind._fields}:
        raise ValueError(f"{dict(record)} is no way to split or stream a component")
    row = [record.get(name, kind._field_defaults.get(name)) for name in kind._fields]
    inside: Inside = read(kind, row)
    counts = [value for value in inside if type(value) is int]
    if min(counts, default=0) < 0 or (isinstance(inside, Sequential) and inside != Sequential()):
        raise ValueError(f"{dict(record)} is no way to split or stream a component")
    return inside


@dataclass(frozen=True)
class Scheme:
    """One way to place a pipeline."""

    sequence: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    sticky: bool = False
    inside: Mapping[str, Inside] = field(
        default_factory=dict
    )  # components that are split or streamed
    swaps: Mapping[str, str] = field(default_factory=dict)  # of components that do not `copy`

    def placement(self, name: str) -> str:
        """Return where the component called `name` lives."""
        inside = self.inside.get(name)
        if inside is not None and not isinstance(inside, Streamed):
            return inside.place
        if name in self.sequence:
            return OFFLOAD
        return RESIDENT if name in self.excluded else OUTSIDE

    def placements(self, names: Iterable[str]) -> dict[str, str]:
        """Return the placement of each component."""
        return {name: self.placement(name) for name in names}

    def split(self, name: str) -> Split | None:
        """Return how the component is split; None if it is not."""
        inside = self.inside.get(name)
        return None if isinstance(inside, Streamed) else inside

    def streamed(self, name: str) -> Streamed | None:
        """Return how many of the component's blocks stay; None if all do."""
        inside = self.inside.get(name)
        return inside if isinstance(inside, Streamed) else None

    def swap(self, name: str) -> str:
        """Return how the component leaves the card: `copy`, `drop` or `pinned`."""
        return self.swaps.get(name, COPY)

    def predecessors(self) -> dict[str, str]:
        """Return for each component of the sequence but the first the one that its hook evicts."""
        return dict(zip(self.sequence[1:], self.sequence[:-1], strict=True))

    def successors(self) -> dict[str, str]:
        """Return for each component of the sequence but the last the one whose hook evicts it."""
        return dict(zip(self.sequence[:-1], self.sequence[1:], strict=True))

    def hooked(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the components that carry a model-offload hook, in the order in which diffusers places the hooks."""
        outside = (name for name in names if self.placement(name) == OUTSIDE)
        return (*self.sequence, *outside)


def scheme_in_mode(mode: Mode, names: Sequence[str]) -> Scheme | None:
    """Return the scheme that a mode of diffusers makes of components of these names; None for its model offload."""
    match mode.name:
        case "model":
            return None
        case "resident":
            return Scheme(excluded=frozenset(names), sticky=True)
        case "sequential":
            return Scheme(inside=dict.fromkeys(names, Sequential()), sticky=True)
    blocks = (mode.blocks or 1) if mode.name == GROUP_BLOCK else 0
    grouped = Grouped(blocks, mode.stream, mode.record_stream, disk=bool(mode.disk))
    return Scheme(inside=dict.fromkeys(names, grouped), sticky=True)


def known_part(scheme: Scheme, names: Sequence[str]) -> Scheme:
    """Return what diffusers makes of `scheme` on a pipeline with components of these names."""
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
    inside: Mapping[str, Inside] | None = None,
    swaps: Mapping[str, str] | None = None,
) -> Scheme:
    """Return the scheme that diffusers would set up: it ignores unknown names and exclusions of sequenced ones."""
    known = tuple(dict.fromkeys(name for name in sequence if name in names))
    kept = frozenset(name for name in excluded if name in names and name not in known)
    return Scheme(
        known,
        kept,
        sticky,
        {name: how for name, how in (inside or {}).items() if name in names},
        {name: how for name, how in (swaps or {}).items() if name in names and how != COPY},
    )


def streamed_blocks(count: int, resident: int) -> tuple[int, ...]:
    """Return which of `count` blocks travel if `resident` stay: spread evenly, so that each upload has equal time.

    Args:
        count: Blocks of the component.
        resident: How many stay, 0 to `count`.
    """
    streamed = count - resident
    return tuple((2 * index + 1) * count // (2 * streamed) for index in range(streamed))
