"""Ways in which a component that moves as a whole leaves the GPU: copied back, dropped, or with a pinned copy kept."""

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
    """One of the ways."""

    copies_back: bool  # what leaves goes to the host; otherwise the host has kept it
    pinned: bool  # the host's copy is page-locked
    words: str


EVICTIONS = {
    COPY: Eviction(copies_back=True, pinned=False, words=""),
    DROP: Eviction(copies_back=False, pinned=False, words="its host copy is kept"),
    PINNED: Eviction(copies_back=False, pinned=True, words="from pinned memory"),
}
SWAPS = tuple(EVICTIONS)


def options(component: Component, levers: Collection[str]) -> tuple[str, ...]:
    """Return the ways that a plan may choose from; if host copies may be kept, no other is better."""
    if SWAP not in levers or component.quantization:
        return (COPY,)
    return (DROP, PINNED)


def host_bytes(component: Component, swap: str) -> HostBytes:
    """Return what the weights of a component take of the host's memory, at rest.

    What our hooks pin is packed first (`allocator.pinned_chunks`); tensors of whole numbers are not pinned.
    """
    sizes = sizes_of(component).moved
    if not EVICTIONS[swap].pinned:
        return HostBytes(sum(sizes), 0)
    floating = [
        size for size, one in zip(sizes, component.tensors, strict=True) if one.floating and size
    ]
    return HostBytes(sum(sizes) - sum(floating), pinned_bytes(floating))
