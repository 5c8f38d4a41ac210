"""Weights of columns whose combination bounds a goal well: Lagrange multipliers, found by subgradient steps.

For any weights not below zero, the least weighted sum of all choices that the rule allows bounds the goal from below;
limits enter at their price. The best weights give the bound of the linear relaxation over the rule's choices. Floats
do here: the search turns weights into whole numbers and computes its bounds from those.

Source: M. L. Fisher, The Lagrangian relaxation method for solving integer programming problems, Management Science
27 (1), 1981, with steps after B. T. Polyak. From knowledge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.search.goals import sought_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from profiler.planning.search.goals import Goal
    from profiler.planning.search.tables import Tables

    Floats = NDArray[np.float64]

_PATIENCE = 5
"""Steps without a better bound, after which steps become half as long."""
_SHORTEST = 1e-3
_CLOSE = 1e-9


class Place(NamedTuple):
    """A partial choice."""

    depth: int
    state: int
    sums: NDArray[np.int64]


class Multipliers:
    """Bounds of one problem under weights.

    Args:
        tables: The problem.
        caps: What may be spent of each column.
        goal: What is to be least; of several columns, the weights sum to 1.
    """

    def __init__(self, tables: Tables, caps: NDArray[np.int64], goal: Goal) -> None:
        sought = sought_columns(goal, tables)
        priced = (tables.base + tables.most[0] > caps) & ~sought
        self._tables = tables
        self._used = np.flatnonzero(priced | sought)
        self._sought = sought[self._used]
        spans = (tables.base + tables.most[0] - tables.least[0][0])[self._used].astype(float)
        self._unit = max(float(spans[self._sought].max()), 1.0)
        self._units = np.where(self._sought, self._unit, np.maximum(spans, 1.0))
        self._figures = [d.figures[:, self._used] / self._units for d in tables.decisions]
        self._spent = np.where(priced, caps, 0)
        self._most = float((tables.base + tables.most[0])[sought].max()) / self._unit

    def ascend(
        self, start: Floats | None, target: float | None, steps: int, at: Place | None = None
    ) -> Floats:
        """Return the weights of the best bound found in `steps` steps.

        Args:
            start: Weights to begin with.
            target: What the goal is known to reach; the bound cannot be higher.
            steps: How many weights to try.
            at: The partial choice whose completions are bounded; the empty one where None.
        """
        place = at or Place(0, 0, self._tables.base)
        self._base = (place.sums - self._spent)[self._used] / self._units
        here = self._start() if start is None else start[self._used] * self._units / self._unit
        best, best_bound = here, -np.inf
        length, tired, stride = 1.0, 0, 0.05
        for _ in range(steps):
            bound, slope = self._weigh(here, place)
            if bound > best_bound:
                best, best_bound, tired, stride = here, bound, 0, stride * 1.5
            else:
                tired += 1
            if tired == _PATIENCE:
                length, tired, stride = length / 2, 0, stride / 2
            slope = np.where(self._sought, slope - slope[self._sought].mean(), slope)
            slope[(here <= 0) & (slope < 0)] = 0
            square = float(slope @ slope)
            aim = (
                min(best_bound + stride, self._most + 1) if target is None else target / self._unit
            )
            if square < _CLOSE or aim - best_bound < _CLOSE or length < _SHORTEST:
                break
            here = self._legal(here + slope * (length * (aim - bound) / square))
        weights = np.zeros(len(self._tables.base))
        weights[self._used] = best / self._units * self._unit
        return weights

    def _start(self) -> Floats:
        """Return weights for the goal alone; of several columns, for the one that bounds it best."""
        bounds = self._tables.base + self._tables.least[0][0]
        first = np.argmax(np.where(self._sought, bounds[self._used], np.iinfo(np.int64).min))
        weights = np.zeros(len(self._used))
        weights[first] = 1
        return weights

    def _legal(self, weights: Floats) -> Floats:
        """Return the nearest weights that are not negative, those of the goal with sum 1."""
        legal: Floats = np.maximum(weights, 0)
        legal[self._sought] = _on_simplex(weights[self._sought])
        return legal

    def _weigh(self, weights: Floats, place: Place) -> tuple[float, Floats]:
        """Return the least weighted sum of an allowed choice, and that choice's sums by column."""
        depths = range(place.depth, len(self._figures))
        decisions, layers = self._tables.decisions, self._tables.layers
        sums = {depth: self._figures[depth] @ weights for depth in depths}
        of_keys = {depth: decisions[depth].least(sums[depth]) for depth in depths}
        rests = {len(self._figures): np.zeros(len(self._tables.least[-1]))}
        for depth in reversed(depths):
            rests[depth] = layers[depth].least(of_keys[depth], rests[depth + 1])
        state, slope = place.state, self._base.copy()
        for depth in depths:
            targets = layers[depth].table[state]
            after = np.where(targets >= 0, of_keys[depth] + rests[depth + 1][targets], np.inf)
            key = int(after.argmin())
            first = decisions[depth].firsts[key]
            rows = sums[depth][first : first + decisions[depth].counts[key]]
            slope += self._figures[depth][first + int(rows.argmin())]
            state = int(targets[key])
        return float(rests[place.depth][place.state] + self._base @ weights), slope


def _on_simplex(point: Floats) -> Floats:
    """Return the nearest point whose coordinates are not negative and sum to 1."""
    falling = np.sort(point)[::-1]
    over = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    last = np.flatnonzero(falling > over)[-1]
    nearest: Floats = np.maximum(point - over[last], 0)
    return nearest
