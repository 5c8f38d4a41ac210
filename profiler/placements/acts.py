"""The operations of a hook on memory: copies, drops, casts and synchronisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container

    from profiler.placements.weights import Weights

ONLOAD, OFFLOAD, CAST = "onload", "offload", "cast"
HOST_AWAITS_COPIES, HOST_AWAITS_KERNELS = "host awaits copies", "host awaits kernels"
KERNELS_AWAIT_COPIES, COPIES_AWAIT_KERNELS = "kernels await copies", "copies await kernels"
"""Waits: of the host, of the default stream (kernels), or of the copy stream."""

PAGEABLE, PINNED, DISK, GPU, META = "pageable", "pinned", "disk", "gpu", "meta"


class Act(NamedTuple):
    """One operation of a hook."""

    kind: str  # ONLOAD, OFFLOAD, CAST, or one of the waits
    group: str = ""  # the path of the part that names what moves in a trace
    tensors: tuple[
        int, ...
    ] = ()  # onloaded or offloaded, by index; a tied tensor once for each place that holds it
    stale: tuple[int, ...] = ()  # tensors of which an older copy moved, in its former dtype
    copied: tuple[int, ...] = ()  # bytes of each copy over the link
    source: str = PAGEABLE  # or the destination; of a cast, where the first tensor is
    beside: bool = False  # the copies run on their own stream
    blocks: bool = True  # the host waits for each copy
    change_bytes: int = 0  # in allocated bytes on the GPU
    transient_bytes: int = 0  # by which the GPU's peak meanwhile exceeds what was allocated
    reported_bytes: int = 0  # bytes moved, as a trace reports them
    copied_on_host: bool = False  # before the transfer: into pinned memory, or to another dtype
    asked_by: str = ""
    dropped: bool = False  # nothing was copied to the host, which has a copy already


GROUP_ASKER = "diffusers.ModuleGroup"
ALIGN_ASKER = "accelerate.AlignDevicesHook"


UNCAST: str | None = None
"""The dtype of the last cast of a component that was never cast."""


def cast_act(
    weights: Weights,
    cast: str | None,
    to: str,
    there: Container[int],
    *,
    kept: Container[int] = (),
    away: str,
) -> Act:
    """Return the cast to `to` of a component with only some of its tensors on the GPU; the others are in `away`."""
    on_gpu = weights.walk_cast(cast, to, there, kept)
    return Act(
        CAST,
        tensors=weights.changed(cast, to),
        source=GPU if 0 in there else away,
        change_bytes=on_gpu.change_bytes,
        transient_bytes=on_gpu.transient_bytes,
        reported_bytes=weights.changed_bytes(cast, to),
    )
