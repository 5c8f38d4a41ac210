"""Placements as phrases, for text, notebooks and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.placements.evictions import COPY, EVICTIONS
from profiler.placements.table import placement_of

if TYPE_CHECKING:
    from profiler.planning.plan import Alternative, Plan

PLACES = {
    "resident": "stays on the GPU",
    "offload": "on the GPU while it is used",
    "outside": "comes when it is used, stays to the end of the call",
}


def worded(plan: Plan, name: str) -> str:
    """Return a phrase for the placement of a component of `plan`."""
    record = plan.inside.get(name)
    inside = None if record is None else placement_of(record)
    place = PLACES.get(plan.placements[name], "")
    if inside is not None:
        place = f"{inside.words()}; the rest {place}" if place else inside.words()
    words = EVICTIONS[plan.swaps.get(name, COPY)].words
    return f"{place}, {words}" if words else place


def inside_words(one: Plan | Alternative) -> list[str]:
    """Return phrases for the components that are streamed or split, or leave the GPU without being copied back."""
    phrases = [f"{name}: {placement_of(record).words()}" for name, record in one.inside.items()]
    for swap, how in (("drop", "kept on the host"), ("pinned", "pinned")):
        names = [name for name, own in one.swaps.items() if own == swap]
        phrases += [f"{', '.join(names)} {how}"] if names else []
    return phrases
