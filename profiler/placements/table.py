"""All placements, by their names in a plan's file, and what they mean for a whole component."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from profiler.checking.typed_reading import read
from profiler.placements import evictions
from profiler.placements.evictions import EVICTIONS
from profiler.placements.grouped import GROUP_BLOCK, Grouped
from profiler.placements.placement import HostBytes
from profiler.placements.scheme import Scheme
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from profiler.libraries.modes import Mode
    from profiler.placements.placement import Placement
    from profiler.record.components import Component

PLACEMENTS: dict[str, type[Placement]] = {
    kind.kind: kind for kind in (Sequential, Grouped, Streamed)
}


def placement_record(placement: Any) -> dict[str, Any]:
    """Return the placement as plain data for JSON; `placement_of` reads it."""
    return {"kind": placement.kind, **dataclasses.asdict(placement)}


def placement_of(record: Mapping[str, Any]) -> Placement:
    """Return the placement that `placement_record` wrote.

    Raises:
        ValueError: if the record is not a placement.
    """
    kind: Any = PLACEMENTS.get(str(record.get("kind")))
    fields = () if kind is None else (one.name for one in dataclasses.fields(kind))
    if kind is None or not {*record} <= {"kind", *fields}:
        raise ValueError(f"{dict(record)} is no way to split or stream a component")
    placement: Placement = read(kind, record)
    if not placement.is_valid():
        raise ValueError(f"{dict(record)} is no way to split or stream a component")
    return placement


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


def whole_part(component: Component, scheme: Scheme) -> Component:
    """Return the part of `component` that moves as a whole: all of it, or what its placement leaves."""
    placement = scheme.inside.get(component.name)
    return component if placement is None else placement.rest(component)


def drops_its_copy(scheme: Scheme, name: str) -> bool:
    """Tell whether the component leaves the GPU without being copied, since the host has a copy."""
    return not EVICTIONS[scheme.swap(name)].copies_back or scheme.streamed(name) is not None


def host_bytes(
    component: Component, placement: Placement | None, swap: str, *, stays: bool
) -> HostBytes:
    """Return the host memory that the weights of `component` take at rest.

    Args:
        component: The component.
        placement: The placement that splits or streams it; None for neither.
        swap: The way in which it leaves the GPU.
        stays: Whether the part that moves as a whole stays on the GPU.
    """
    inside = HostBytes(0, 0) if placement is None else placement.host_bytes(component)
    if stays or (placement is not None and not placement.leaves_rest):
        return inside
    rest = component if placement is None else placement.rest(component)
    whole = evictions.host_bytes(rest, swap)
    return HostBytes(inside.pageable + whole.pageable, inside.pinned + whole.pinned)
