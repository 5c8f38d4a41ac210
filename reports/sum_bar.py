"""The arithmetic of the answer as pieces of one bar: what is needed, term by term, against the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.record.verdict import verdict
from reports import story
from reports.palette import OTHER, OTHER_SHADES, component_colours

if TYPE_CHECKING:
    from profiler.record.profile import Profile


SMALLEST = 0.0005  # of the bar: what is less does not show


class Piece(NamedTuple):
    """One piece of the bar that shows the sum against the card."""

    label: str
    bytes: int
    share: float  # of the whole bar
    colour: str  # "" where the style sheet decides
    kind: str


def sum_pieces(profile: Profile) -> list[Piece]:
    """Return the arithmetic of the answer: context, the bill, what is reserved beyond it, the band, what is spare."""
    colours = component_colours(profile)
    answer = verdict(profile)
    totals, gpu = profile.totals, profile.gpu
    parts = [("CUDA context", gpu.context_bytes, OTHER, "context")]
    for row in story.bill(profile):
        colour = OTHER_SHADES.get(row.what) or colours.get(row.holder, OTHER)
        parts.append((f"{row.holder} {row.what}".strip(), row.bytes, colour, "bill"))
    if profile.complete:
        beyond = totals.device_bytes - gpu.context_bytes - totals.peak_allocated_bytes
        parts.append(("reserved, not allocated", beyond, "", "reserved"))
        parts.append(("error band", answer.band_bytes, "", "band"))
        parts.append(("spare", answer.spare_bytes, "", "spare"))
    else:
        parts += _at_the_end(profile)
    whole = _whole_bytes(profile)
    return [
        Piece(label, size, size / whole, colour, kind)
        for label, size, colour, kind in parts
        if size > SMALLEST * whole
    ]


def _at_the_end(profile: Profile) -> list[tuple[str, int, str, str]]:
    """Return what of the card was not allocated when a run ended early."""
    gpu, totals, failure = profile.gpu, profile.totals, profile.failure
    reserved = totals.device_bytes - gpu.context_bytes - totals.peak_allocated_bytes
    free = gpu.capacity_bytes - totals.device_bytes
    if failure is not None and failure.out_of_memory:
        reserved = failure.unallocated_bytes or 0
        free = gpu.capacity_bytes - gpu.context_bytes - reserved - (failure.allocated_bytes or 0)
    return [
        ("reserved, not allocated", reserved, "", "reserved"),
        ("free when it ended", free, "", "spare"),
    ]


def _whole_bytes(profile: Profile) -> int:
    """Return what the whole bar stands for: the card, or what is needed where that is more."""
    needed = verdict(profile).needed_bytes if profile.complete else profile.totals.device_bytes
    return max(profile.gpu.capacity_bytes, needed)


def card_share(profile: Profile) -> float:
    """Return where the card ends on the bar; 1 where everything fits."""
    return profile.gpu.capacity_bytes / _whole_bytes(profile)
