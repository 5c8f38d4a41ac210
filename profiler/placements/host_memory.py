"""What a component's weights take of the host's memory under each placement, at rest.

Pinned memory is rounded as PyTorch rounds it; what our own hooks pin is packed first (`pinned_chunks`). A component
that is on the card for good needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.allocator.pinned_chunks import pinned_bytes
from profiler.placements.group_structure import structure_of
from profiler.placements.scheme import PINNED, Grouped, Streamed
from profiler.placements.streamed import pinned_sizes, rest_of
from profiler.placements.tensor_sizes import sizes_of

if TYPE_CHECKING:
    from profiler.placements.scheme import Inside
    from profiler.record.components import Component


class HostBytes(NamedTuple):
    """Bytes of host memory."""

    pageable: int
    pinned: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.pageable + self.pinned


def host_bytes(component: Component, inside: Inside | None, swap: str, *, stays: bool) -> HostBytes:
    """Return what the weights of `component` take on the host.

    Args:
        component: Whose weights.
        inside: How it is split or streamed, None for neither.
        swap: How it leaves the card.
        stays: Whether what moves as a whole is on the card for good.
    """
    if isinstance(inside, Grouped):
        return _grouped(component, inside)
    rest, travelling = component, 0
    if isinstance(inside, Streamed):
        rest = rest_of(component, inside.resident_blocks)
        travelling = pinned_bytes(pinned_sizes(component, inside.resident_blocks))
    if stays:
        return HostBytes(0, travelling)
    sizes = sizes_of(rest).moved
    if swap != PINNED:
        return HostBytes(sum(sizes), travelling)
    floating = [
        size for size, one in zip(sizes, rest.tensors, strict=True) if one.floating and size
    ]
    return HostBytes(sum(sizes) - sum(floating), travelling + pinned_bytes(floating))


def _grouped(component: Component, grouped: Grouped) -> HostBytes:
    moved = sizes_of(component).moved
    if grouped.disk:
        return HostBytes(0, 0)
    if not grouped.stream:
        return HostBytes(sum(moved), 0)
    groups = structure_of(component, grouped).groups
    streamed = [[moved[tensor] for tensor in group.tensors] for group in groups if group.streams]
    if grouped.low_cpu_mem:
        # One group is pinned at a time, beside its copy; PyTorch keeps what was pinned for the next.
        most = max((sum(map(round_pinned, sizes)) for sizes in streamed), default=0)
        return HostBytes(sum(moved), most)
    pinned = {tensor for group in groups if group.streams for tensor in group.tensors}
    rest = sum(size for tensor, size in enumerate(moved) if tensor not in pinned)
    # What two groups hold is pinned once: the second finds it pinned.
    return HostBytes(rest, sum(round_pinned(moved[tensor]) for tensor in pinned))


def round_pinned(nbytes: int) -> int:
    """Return what a pinned block takes: the next power of two.

    Source: `CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h, torch 2.13.0.
    """
    return 1 << (nbytes - 1).bit_length() if nbytes else 0
