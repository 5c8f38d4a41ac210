"""What lowers a peak and may change the picture: the VAE's tiling and slicing, denoisers stored as float8.

None is used unless it is allowed, and no more than it takes. Each is another run of the pipeline to plan from.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.planning.placements import MODIFIERS
from profiler.planning.vocabulary import SWAP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.planning import Wish
    from profiler.scenario import Scenario


def combinations_of(allow: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield what may be tried, nothing first, then one, then more; those that change least first.

    Raises:
        InputError: if one of them is unknown.
    """
    unknown = [name for name in allow if name not in MODIFIERS]
    if unknown:
        raise InputError(f"nothing is called {', '.join(unknown)}: allow of {', '.join(MODIFIERS)}")
    mildest_first = [name for name in ("vae-slicing", "vae-tiling", "fp8") if name in allow]
    for count in range(len(mildest_first) + 1):
        yield from combinations(mildest_first, count)


def modified(scenario: Scenario, modifiers: tuple[str, ...]) -> Scenario:
    """Return `scenario` with these in effect."""
    if not modifiers:
        return scenario
    mode = replace(
        scenario.mode,
        vae_tiling="vae-tiling" in modifiers,
        vae_slicing="vae-slicing" in modifiers,
        layerwise_casting="fp8" in modifiers,
    )
    return replace(scenario, mode=mode)


def wish_under(wish: Wish, modifiers: tuple[str, ...]) -> Wish:
    """Return `wish` for a run with these in effect.

    Layers that are cast for each forward bring memory of their own, which travelling blocks and groups are not replayed
    with: of the levers only swapping is left.
    """
    if not modifiers:
        return wish
    levers = tuple(lever for lever in wish.levers if lever == SWAP or "fp8" not in modifiers)
    return replace(wish, levers=levers, modifiers=modifiers)
