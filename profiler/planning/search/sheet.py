"""The columns of one search: those that can still decide anything, and surrogates beside them.

A surrogate is a sum of columns with weights that are whole and not negative. What the columns may not exceed, the sum
may not exceed either; and while it says nothing new of complete choices, the least that it takes in the open decisions
says more than the least of each column does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from profiler.planning.search.goals import PEAK, sought_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.goals import Caps, Goal
    from profiler.planning.search.tables import Tables

    Whole = NDArray[np.int64]


class Sheet:
    """Figures, caps and bounds of one problem for one goal; the parts of the search share it.

    Attributes:
        tables: The problem.
        floor: What no choice goes below in the goal.
        cap: What the goal may reach.
        columns: The cap of each column of the tables.
        sought: Which of them are the goal's.
        base: [column] before the first decision.
        figures: Of each decision: [option, column].
        matters: The columns of the tables that can still decide anything; the sheet's columns are these, then the
            surrogates.
        weights: The surrogates [surrogate, column of the tables].
        least_of_keys: Of each decision: [key, column].
        rests: Before each decision, and after the last: [state, column], what the open ones take at the least.

    Args:
        tables: The problem.
        caps: What may be spent; of the goal too.
        goal: What to make least.
        surrogates: Their weights [column of the tables].
    """

    def __init__(self, tables: Tables, caps: Caps, goal: Goal, surrogates: Sequence[Whole]) -> None:
        self.tables = tables
        columns, sought = tables.grid.down(caps.columns(tables)), sought_columns(goal, tables)
        self.columns, self.sought = columns, sought
        self.cap = int(columns[sought].max())
        self.weights = np.array(surrogates, dtype=np.int64).reshape(-1, len(columns))
        self._priced = self.weights @ np.where(sought, 0, columns)
        self._shares = self.weights[:, sought].sum(axis=1)
        rests = self._rests_of_surrogates()
        self.floor = self._floor(sought, rests[0][0])
        # Up to its clamp, a sum is as good as any lower one.
        clamps = np.where(sought, self.floor, columns)
        matters = tables.base + tables.most[0] > clamps
        matters[sought] |= goal != PEAK
        self.matters = np.flatnonzero(matters)
        self._wanted = np.flatnonzero(sought[matters])
        self._clamps = clamps[matters] - tables.most[:, matters]
        self.base = self._joined(tables.base)
        self.figures = [self._joined(decision.figures) for decision in tables.decisions]
        pairs = zip(tables.decisions, self.figures, strict=True)
        self.least_of_keys = [decision.least(figures) for decision, figures in pairs]
        self.rests = [
            np.concatenate([least[:, self.matters], rest], axis=1)
            for least, rest in zip(tables.least, rests, strict=True)
        ]

    def attainable(self, cap: int) -> int:
        """Return the highest value of the goal that is at most `cap` and that a choice can have."""
        capped = np.minimum(self.columns[self.sought], cap)
        return int(self.tables.grid.of(self.sought).down(capped).max())

    def room(self, cap: int) -> Whole:
        """Return what each column may reach if the goal may reach `cap`."""
        columns = np.where(self.sought, np.minimum(self.columns, cap), self.columns)
        columns = self.tables.grid.down(columns)[self.matters]
        return np.concatenate([columns, self._priced + self._shares * cap])

    def before(self, depth: int) -> Whole:
        """Return what the decisions before `depth` take of each column at the least, whatever the rule says."""
        least = (keys.min(axis=0) for keys in self.least_of_keys[:depth])
        return sum(least, start=np.zeros_like(self.base))

    def bounds(self, least: Whole) -> Whole:
        """Return what labels reach of the goal at the least; `least` [label, column] has the open decisions in it."""
        bounds: Whole = least[:, self._wanted].max(axis=1, initial=self.floor)
        over = least[:, len(self.matters) :] - self._priced
        for index in np.flatnonzero(self._shares):
            np.maximum(bounds, -(-over[:, index] // self._shares[index]), out=bounds)
        return bounds

    def clamped(self, sums: Whole, depth: int) -> Whole:
        """Return the sums of all but the surrogates, raised to where they cannot decide anything."""
        clamped: Whole = np.maximum(sums[:, : len(self.matters)], self._clamps[depth])
        return clamped

    def _joined(self, figures: Whole) -> Whole:
        return np.concatenate([figures[..., self.matters], figures @ self.weights.T], axis=-1)

    def _rests_of_surrogates(self) -> list[Whole]:
        tables = self.tables
        rest = np.zeros((len(tables.least[-1]), len(self.weights)), dtype=np.int64)
        rests = [rest]
        for layer, decision in zip(
            reversed(tables.layers), reversed(tables.decisions), strict=True
        ):
            rest = layer.least(decision.least(decision.figures @ self.weights.T), rest)
            rests.append(rest)
        return rests[::-1]

    def _floor(self, sought: NDArray[np.bool_], rest: Whole) -> int:
        plain = (self.tables.base + self.tables.least[0][0])[sought].max()
        over = self.tables.base @ self.weights.T + rest - self._priced
        shared = self._shares > 0
        return int(np.append(-(-over[shared] // self._shares[shared]), plain).max())
