"""The arithmetic of the answer as pieces of one bar: the needed memory, term by term, against the GPU's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.record.verdict import verdict
from reports import story
from reports.palette import OTHER, OTHER_SHADES, component_colours

if TYPE_CHECKING:
    from profiler.record.profile import Profile


SMALLEST = 0.0005  # of the bar: smaller pieces would not be visible


class Piece(NamedTuple):
    """One piece of the bar that shows the sum against the GPU's memory."""

    label: str
    bytes: int
    share: float  # of the whole bar
    colour: str  # "" if the style sheet decides
    kind: str


def sum_pieces(profile: Profile) -> list[Piece]:
    """Return the pieces: context, peak breakdown, memory reserved beyond it, error band, and spare memory."""
    colours = component_colours(profile)
    answer = verdict(profile)
    totals, gpu = profile.totals, profile.gpu
    parts = [("CUDA context", gpu.context_bytes, OTHER, "context")]
    for row in story.peak_breakdown(profile):
        colour = OTHER_SHADES.get(row.what) or colours.get(row.holder, OTHER)
        parts.append((f"{row.holder} {row.what}".strip(), row.bytes, colour, "breakdown"))
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
    """Return the pieces of the GPU's memory that were not allocated when a run ended early."""
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
    """Return the bytes of the whole bar: the GPU's capacity, or the needed bytes if they are more."""
    needed = verdict(profile).needed_bytes if profile.complete else profile.totals.device_bytes
    return max(profile.gpu.capacity_bytes, needed)


def gpu_share(profile: Profile) -> float:
    """Return the position of the GPU's capacity on the bar; 1 if everything fits."""
    return profile.gpu.capacity_bytes / _whole_bytes(profile)
