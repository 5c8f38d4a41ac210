"""Modifiers that lower a peak and may change the picture: the VAE's tiling and slicing, float8 denoisers, less loaded.

None is used unless it is allowed, and no more of them than needed. Each needs another run of the pipeline to plan from.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.placements.scheme import MODIFIERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.sizing.scenario import Scenario

DROP = "drop:"
"""What comes before a component that may be left out."""


def combinations_of(allow: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the combinations to try: none first, then one modifier, then more; the mildest first.

    Raises:
        InputError: if one of them is unknown.
    """
    dropped = [
        name for name in allow if name.removeprefix(DROP).isidentifier() and name.startswith(DROP)
    ]
    unknown = [name for name in allow if name not in (*MODIFIERS, *dropped)]
    if unknown:
        known = ", ".join((*MODIFIERS, f"{DROP}COMPONENT"))
        raise InputError(f"nothing is called {', '.join(unknown)}: allow of {known}")
    mildest_first: list[str] = [
        name for name in ("vae-slicing", "vae-tiling", "fp8") if name in allow
    ]
    mildest_first += dropped
    for count in range(len(mildest_first) + 1):
        yield from combinations(mildest_first, count)


def modified(scenario: Scenario, modifiers: tuple[str, ...]) -> Scenario:
    """Return `scenario` with these modifiers in effect."""
    if not modifiers:
        return scenario
    mode = replace(
        scenario.mode,
        vae_tiling=scenario.mode.vae_tiling or "vae-tiling" in modifiers,
        vae_slicing=scenario.mode.vae_slicing or "vae-slicing" in modifiers,
        layerwise_casting=scenario.mode.layerwise_casting or "fp8" in modifiers,
    )
    drops = [name.removeprefix(DROP) for name in modifiers if name.startswith(DROP)]
    without = (*scenario.without, *(name for name in drops if name not in scenario.without))
    return replace(scenario, mode=mode, without=without)
