"""Placements in words, for text, notebooks and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.placements.scheme import COPY, DROP, Grouped, Streamed, inside_of

if TYPE_CHECKING:
    from profiler.placements.scheme import Inside
    from profiler.planning.plan import Alternative, Plan

PLACES = {
    "resident": "stays on the card",
    "offload": "on the card while it is used",
    "outside": "comes when it is used, stays to the end of the call",
}


def worded(plan: Plan, name: str) -> str:
    """Return where a component of `plan` lives."""
    record = plan.inside.get(name)
    inside = None if record is None else inside_of(record)
    place = PLACES.get(plan.placements[name], "")
    if inside is not None:
        place = f"{_inside(inside)}; the rest {place}" if place else _inside(inside)
    swap = plan.swaps.get(name, COPY)
    if swap == COPY:
        return place
    return f"{place}, {'its host copy is kept' if swap == DROP else 'from pinned memory'}"


def inside_words(one: Plan | Alternative) -> list[str]:
    """Return a phrase for each component that is streamed or split, or leaves the card without a copy down."""
    phrases = [f"{name}: {_inside(inside_of(record))}" for name, record in one.inside.items()]
    for swap, how in (("drop", "kept on the host"), ("pinned", "pinned")):
        names = [name for name, own in one.swaps.items() if own == swap]
        phrases += [f"{', '.join(names)} {how}"] if names else []
    return phrases


def _inside(inside: Inside) -> str:
    if isinstance(inside, Streamed):
        return (
            f"{inside.resident_blocks} blocks stay, the others travel"
            if inside.resident_blocks
            else "all blocks travel"
        )
    if not isinstance(inside, Grouped):
        return "layer by layer"
    level = f"groups of {inside.blocks} blocks" if inside.blocks > 1 else "block by block"
    words = [level if inside.blocks else "groups of one layer"]
    words += ["on a stream"] if inside.stream else []
    words += ["pinned on the fly"] if inside.low_cpu_mem else []
    words += ["from disk"] if inside.disk else []
    return ", ".join(words)
