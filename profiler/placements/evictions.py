"""Ways to evict a whole component from the GPU: copy it back, drop it, or keep a pinned host copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.placements.placement import SWAP, HostBytes
from profiler.placements.tensor_sizes import sizes_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from profiler.record.components import Component

COPY, DROP, PINNED = "copy", "drop", "pinned"


class Eviction(NamedTuple):
    """One way to evict a component."""

    copies_back: bool  # weights are copied to the host; otherwise the host has kept them
    pinned: bool  # the host's copy is page-locked
    words: str


EVICTIONS = {
    COPY: Eviction(copies_back=True, pinned=False, words=""),
    DROP: Eviction(copies_back=False, pinned=False, words="its host copy is kept"),
    PINNED: Eviction(copies_back=False, pinned=True, words="from pinned memory"),
}
SWAPS = tuple(EVICTIONS)


def options(component: Component, levers: Collection[str]) -> tuple[str, ...]:
    """Return the ways that a plan may choose from; if host copies may be kept, copying back is never better."""
    if SWAP not in levers or component.quantization:
        return (COPY,)
    return (DROP, PINNED)


def host_bytes(component: Component, swap: str) -> HostBytes:
    """Return the host memory that the weights of a component take at rest.

    Our hooks pack tensors before they pin them (`allocator.pinned_chunks`); integer tensors are not pinned.
    """
    sizes = sizes_of(component).moved
    if not EVICTIONS[swap].pinned:
        return HostBytes(sum(sizes), 0)
    floating = [
        size for size, one in zip(sizes, component.tensors, strict=True) if one.floating and size
    ]
    return HostBytes(sum(sizes) - sum(floating), pinned_bytes(floating))
