"""The arithmetic of the answer as pieces of one bar: what is needed, term by term, against the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.verdict import verdict
from reports import story
from reports.palette import OTHER, OTHER_SHADES, component_colours

if TYPE_CHECKING:
    from profiler.profile import Profile


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
    beyond = totals.device_bytes - gpu.context_bytes - totals.peak_allocated_bytes
    parts.append(("reserved, not allocated", beyond, "", "reserved"))
    if profile.complete:
        parts.append(("error band", answer.band_bytes, "", "band"))
        parts.append(("spare", answer.spare_bytes, "", "spare"))
    else:
        free_bytes = gpu.capacity_bytes - totals.device_bytes
        parts.append(("free when it ended", free_bytes, "", "spare"))
    whole = max(gpu.capacity_bytes, answer.needed_bytes)
    return [
        Piece(label, size, size / whole, colour, kind)
        for label, size, colour, kind in parts
        if size > SMALLEST * whole
    ]


def card_share(profile: Profile) -> float:
    """Return where the card ends on the bar; 1 where everything fits."""
    return profile.gpu.capacity_bytes / max(
        profile.gpu.capacity_bytes, verdict(profile).needed_bytes
    )
