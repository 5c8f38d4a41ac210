"""What is sought and what may be spent: goals, caps, and the surrogates that bound several columns at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from profiler.planning.search.tables import COST, MOST, PENALTY, USES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from profiler.planning.search.tables import Tables

PEAK = "peak"
Goal = int | str
"""What is to be least: the column COST or PENALTY, or PEAK, the highest column of loads."""

BY_COST: tuple[Goal, ...] = (COST, PEAK, PENALTY)
BY_PEAK: tuple[Goal, ...] = (PEAK, COST, PENALTY)
BY_PENALTY: tuple[Goal, ...] = (PENALTY, COST, PEAK)
"""The orders in which choices are ranked: one goal after the other."""

_MOST_SHIFT = 24


@dataclass(frozen=True)
class Caps:
    """The highest allowed sums; None for unlimited."""

    peak: int | None
    uses: tuple[int | None, ...]
    cost: int | None = None
    penalty: int | None = None

    def lowered(self, goal: Goal, value: int) -> Caps:
        """Return caps that allow at most `value` of `goal`."""
        if goal == PEAK:
            return replace(self, peak=value)
        return replace(self, cost=value) if goal == COST else replace(self, penalty=value)

    def columns(self, tables: Tables) -> NDArray[np.int64]:
        """Return the cap of each column, at most what a choice can reach."""
        highest = tables.base + tables.most[0]
        resources = tables.loads - USES
        uses = (*self.uses[:resources], *(None,) * (resources - len(self.uses)))
        peaks = (self.peak,) * (len(highest) - tables.loads)
        caps = (self.cost, self.penalty, *uses, *peaks)
        pairs = zip(highest.tolist(), caps, strict=True)
        return np.array([most if cap is None else min(most, cap) for most, cap in pairs])


def sought_columns(goal: Goal, tables: Tables) -> NDArray[np.bool_]:
    """Return which columns are those of `goal`."""
    sought = np.zeros(len(tables.base), dtype=bool)
    sought[tables.loads if goal == PEAK else int(goal) :] = True
    if goal != PEAK:
        sought[int(goal) + 1 :] = False
    return sought


def surrogate(
    weights: NDArray[np.float64], caps: NDArray[np.int64], tables: Tables
) -> NDArray[np.int64] | None:
    """Return whole numbers in about the proportions of `weights`, small enough that no sum overflows.

    None where the proportions are too far apart. Any such combination of columns is a valid constraint, whatever the
    weights are: what each column may not exceed, their combination may not exceed either.
    """
    spans = np.abs(tables.base).astype(float) + np.abs(caps)
    for decision in tables.decisions:
        spans += np.abs(decision.figures).max(axis=0)
    total = float(spans @ weights)
    if not total > 0:
        return None
    scale = min(MOST / 4 / total, 2.0**_MOST_SHIFT / max(weights[weights > 0].min(), 1e-300))
    whole = np.rint(weights * scale).astype(np.int64)
    return whole if whole.any() else None
