"""What a hook does to memory, act by act: copies, drops, casts, and who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container

    from profiler.placements.weights import Weights

ONLOAD, OFFLOAD, CAST = "onload", "offload", "cast"
HOST_AWAITS_COPIES, HOST_AWAITS_KERNELS = "host awaits copies", "host awaits kernels"
KERNELS_AWAIT_COPIES, COPIES_AWAIT_KERNELS = "kernels await copies", "copies await kernels"
"""Who waits: the host, the default stream (kernels), or the stream of copies."""

PAGEABLE, PINNED, DISK, CARD, META = "pageable", "pinned", "disk", "card", "meta"


class Act(NamedTuple):
    """One thing that a hook does."""

    kind: str  # ONLOAD, OFFLOAD, CAST, or one that waits
    group: str = ""  # the path of the part by which the tracer names what moves
    tensors: tuple[
        int, ...
    ] = ()  # that came to the card or left it, by index; ties as often as they are held
    stale: tuple[int, ...] = ()  # those of which another copy did so, in the dtype that it once had
    copied: tuple[int, ...] = ()  # bytes of each copy over the link
    source: str = PAGEABLE  # or where they go; of a cast where the first tensor is
    beside: bool = False  # the copies run on a stream of their own
    blocks: bool = True  # the host waits for each copy
    change_bytes: int = 0  # of what is allocated on the card
    transient_bytes: int = 0  # by how much the card's peak meanwhile exceeds what was there before
    reported_bytes: int = 0  # what a trace says has moved
    copied_on_host: bool = False  # first: into pinned memory, or in another dtype
    asked_by: str = ""
    dropped: bool = False  # nothing went to the host: it has a copy


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
    """Return a cast to `to` of a component of which only some tensors are on the card; the others are `away`."""
    on_card = weights.walk_cast(cast, to, there, kept)
    return Act(
        CAST,
        tensors=weights.changed(cast, to),
        source=CARD if 0 in there else away,
        change_bytes=on_card.change_bytes,
        transient_bytes=on_card.transient_bytes,
        reported_bytes=weights.changed_bytes(cast, to),
    )
