"""Good surrogates for a search, kept for the next one of the same problem.

Weights that are best for all choices together bound the choices that begin alike less well. So some are found for the
partial choices of the lowest bound, one after the other, until that no longer raises the lowest bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from profiler.planning.search.goals import surrogate
from profiler.planning.search.layers import Descent
from profiler.planning.search.multipliers import Multipliers, Place
from profiler.planning.search.sheet import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.goals import Caps, Goal
    from profiler.planning.search.layers import Clock, Labels, Region
    from profiler.planning.search.multipliers import Floats

_STEPS = 40
"""Weights that are tried, each time some are looked for."""
_FRONTIER = 500
"""Partial choices among which those of the lowest bounds are looked for: those of the first depth with as many."""
_FEW = 50
"""So few of them are searched faster than weights are found."""
_TUNINGS, _FAILURES = 8, 2
"""Partial choices for which weights are looked for, and how many in a row may gain nothing."""


class Prices:
    """The weights known for one problem.

    Args:
        region: All of the problem.
    """

    def __init__(self, region: Region) -> None:
        self._region, self._tables = region, region.tables
        self._first: dict[Goal, Floats] = {}
        self._tuned: dict[Goal, list[Floats]] = {}

    def sheet(self, caps: Caps, goals: Sequence[Goal]) -> Sheet:
        """Return the sheet for the last of `goals`, with the surrogates that are known for all of them.

        Args:
            caps: What may be spent.
            goals: What is sought, after what was sought before and is capped now.
        """
        columns = caps.columns(self._tables)
        if goals[0] not in self._first:
            multipliers = Multipliers(self._tables, columns, goals[0])
            self._first[goals[0]] = multipliers.ascend(None, None, _STEPS)
        weights = [
            each
            for goal in goals
            if goal in self._first
            for each in (self._first[goal], *self._tuned.get(goal, ()))
        ]
        made = (surrogate(each, columns, self._tables) for each in weights)
        return Sheet(self._tables, caps, goals[-1], [each for each in made if each is not None])

    def tune(self, caps: Caps, goals: Sequence[Goal], target: int | None, clock: Clock) -> Sheet:
        """Return a sheet with better surrogates for the last of `goals`, of which `target` is known to be reached.

        Raises:
            LateError: when the time is up.
        """
        goal, tables = goals[-1], self._tables
        clock.check()
        sheet = self.sheet(caps, goals)
        cap = sheet.cap if target is None else min(sheet.cap, target - 1)
        multipliers = Multipliers(tables, sheet.columns, goal)
        self._first[goal] = multipliers.ascend(self._first.get(goal), target, _STEPS)
        frontier = self._frontier(sheet, cap, clock)
        frontier.raised(0, surrogate(self._first[goal], sheet.columns, tables))
        failures = 0
        for _ in range(_TUNINGS):
            if frontier.count < _FEW or failures == _FAILURES:
                break
            clock.check()
            index = frontier.lowest()
            place = frontier.place(index)
            weights = multipliers.ascend(self._first[goal], target, _STEPS, place)
            if frontier.raised(index, surrogate(weights, sheet.columns, tables)):
                self._tuned[goal] = [*self._tuned.get(goal, ()), weights][-_TUNINGS:]
                failures = 0
            else:
                failures += 1
        return self.sheet(caps, goals)

    def _frontier(self, sheet: Sheet, cap: int, clock: Clock) -> _Frontier:
        """Return the partial choices of the first depth with many of them."""
        tables = self._tables
        depth, labels = Descent(self._region, sheet, cap, clock).frontier(_FRONTIER)
        sums = np.tile(tables.base, (len(labels.states), 1))
        for made in range(depth):
            sums += tables.decisions[made].figures[labels.rows[:, made]]
        return _Frontier(sheet, cap, depth, labels, sums)


class _Frontier:
    """Partial choices of one depth, with the bounds of their completions."""

    def __init__(
        self, sheet: Sheet, cap: int, depth: int, labels: Labels, sums: NDArray[np.int64]
    ) -> None:
        self._tables, self._columns, self._sought = sheet.tables, sheet.columns, sheet.sought
        self._depth, self._states, self._sums = depth, labels.states, sums
        self._cap, self._bounds = cap, labels.bounds
        self._tuned = np.zeros(len(labels.states), dtype=bool)

    @property
    def count(self) -> int:
        """How many may reach the caps."""
        return int((self._bounds <= self._cap).sum())

    def lowest(self) -> int:
        """Return the one of the lowest bound among those that were not asked for yet."""
        index = int(np.where(self._tuned, np.iinfo(np.int64).max, self._bounds).argmin())
        self._tuned[index] = True
        return index

    def place(self, index: int) -> Place:
        """Return one of them."""
        return Place(self._depth, int(self._states[index]), self._sums[index])

    def raised(self, index: int, weights: NDArray[np.int64] | None) -> bool:
        """Raise the bounds by a surrogate; return whether that of `index` rose."""
        share = 0 if weights is None else int(weights[self._sought].sum())
        if weights is None or not share or not self.count:
            return False
        tables = self._tables
        rest = np.zeros(len(tables.least[-1]), dtype=np.int64)
        for depth in range(len(tables.decisions) - 1, self._depth - 1, -1):
            decision = tables.decisions[depth]
            rest = tables.layers[depth].least(decision.least(decision.figures @ weights), rest)
        priced = weights @ np.where(self._sought, 0, self._columns)
        bounds = -((priced - self._sums @ weights - rest[self._states]) // share)
        rose = bool(bounds[index] > self._bounds[index])
        self._bounds = np.maximum(self._bounds, bounds)
        return rose
