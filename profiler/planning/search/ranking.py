"""The best choices in their order: one goal after the other, then the best of what is left.

The first goal is made least; among the choices that reach it the second, and so on. What is left when the best choice
is taken out falls into as many regions as there are decisions: those that agree with it up to some decision and differ
there.

Source: K. G. Murty, An algorithm for ranking all the assignments in order of increasing cost, Operations Research 16
(3), 1968. From knowledge.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from profiler.planning.search.completions import completions_of
from profiler.planning.search.goals import sought_columns
from profiler.planning.search.layers import Descent, LateError, Region
from profiler.planning.search.pricing import Prices
from profiler.planning.search.tables import tables_of
from profiler.planning.search.trimming import trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.goals import Caps, Goal
    from profiler.planning.search.layers import Best, Clock
    from profiler.planning.search.records import Problem
    from profiler.planning.search.sheet import Sheet

_BEAM = 64
"""Partial choices of each depth that are followed to find a first good choice."""
_NODES = 4000
"""Partial choices after which it is worth the time to leave out what cannot be part of a better choice."""
_NODES_LEFT = 20_000
"""Partial choices of what is left after which better bounds are worth their time. The first goal has them at once: for
the others, those of the goals before are known and apply as well."""


@dataclass
class Ranked:
    """The best choices found; `bound` is of the first goal, None where no choice is left."""

    choices: list[Best] = field(default_factory=list)
    bound: int | None = None
    complete: bool = True


class Ranking:
    """Problems made ready for any number of searches."""

    def __init__(self, problems: Sequence[Problem], resources: int) -> None:
        tables = [tables_of(problem, resources) for problem in problems]
        self._regions = [
            Region(index, each, (None,) * len(each.decisions))
            for index, each in enumerate(tables)
            if each is not None
        ]
        self._prices = {region.problem: Prices(region) for region in self._regions}

    def apart(self) -> Ranking:
        """Return the same problems with prices of their own: what they learn makes no difference to searches here."""
        made = copy(self)
        made._prices = {region.problem: Prices(region) for region in self._regions}
        return made

    def best(self, caps: Caps, wanted: int, clock: Clock, goals: Sequence[Goal]) -> Ranked:
        """Return the `wanted` best choices within `caps`, by `goals`, the first one first."""
        regions, ranked = self._regions, Ranked()
        while len(ranked.choices) < wanted and ranked.complete:
            previous = (
                [reached(ranked.choices[-1], goal) for goal in goals] if ranked.choices else []
            )
            part = _Part(regions, self._prices, previous, clock)
            try:
                part.search(caps, goals)
            except LateError:
                ranked.complete = False
            if not ranked.choices:
                ranked.bound = part.bound
            if part.best is None:
                break
            ranked.choices.append(part.best)
            regions = _without(regions, part.best)
        return ranked


class _Part:
    """The search for the one best choice of some regions.

    Attributes:
        best: The best choice found.
        bound: What no choice goes below in the first goal; None where none keeps the caps.

    Args:
        regions: Where to search.
        prices: By problem.
        previous: What the choice before this one in the ranking reaches of each goal.
        clock: When to stop.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        prices: dict[int, Prices],
        previous: Sequence[int],
        clock: Clock,
    ) -> None:
        self.best: Best | None = None
        self.bound: int | None = None
        self._regions, self._prices, self._clock = regions, prices, clock
        self._previous = previous
        self._known: int | None = None  # what the goal is known not to go below
        self._open: dict[int, int] = {}  # by region: bounds of what is not searched yet

    def search(self, caps: Caps, goals: Sequence[Goal]) -> None:
        """Find the best choice by `goals`, the first one first.

        Raises:
            LateError: when the time is up; `best` and `bound` hold what is known by then.
        """
        equal = bool(self._previous)
        for number, goal in enumerate(goals):
            self._known = self._previous[number] if equal else None
            if self.best is not None:
                self.best = self.best._replace(value=reached(self.best, goal))
            try:
                self._least(caps, goals[: number + 1])
            finally:
                if number == 0:
                    self.bound = self._bound()
            if self.best is None:
                return
            equal = equal and self.best.value == self._known
            caps = caps.lowered(goal, self.best.value)

    def _least(self, caps: Caps, goals: Sequence[Goal]) -> None:
        """Find a choice that is least in the last of `goals`; the others have had their turn."""
        self._open = {
            index: _plain_floor(region, goals[-1]) for index, region in enumerate(self._regions)
        }
        if not self._worthwhile():
            return
        sheets = {
            problem: self._prices[problem].sheet(caps, goals)
            for problem in {region.problem for region in self._regions}
        }
        self._raise_floors(sheets)
        if self._worthwhile():
            self._descend(self._order()[0], sheets, beam=_BEAM)
        for index in self._order():
            if not self._worthwhile():
                return
            if not self._descend(index, sheets, nodes=_NODES):
                self._settle(index, sheets, caps, goals)
            del self._open[index]

    def _settle(
        self, index: int, sheets: dict[int, Sheet], caps: Caps, goals: Sequence[Goal]
    ) -> None:
        """Search what is left of a region that is not done quickly, if need be with better bounds."""
        problem, goal = self._regions[index].problem, goals[-1]
        later = len(goals) > 1
        if later and self._search_left(index, sheets[problem], caps, goal, nodes=_NODES_LEFT):
            return
        target = None if self.best is None else self.best.value
        sheets[problem] = self._prices[problem].tune(caps, goals, target, self._clock)
        self._raise_floors(sheets)
        self._descend(index, sheets, beam=_BEAM)
        self._search_left(index, sheets[problem], caps, goal)

    def _search_left(
        self, index: int, sheet: Sheet, caps: Caps, goal: Goal, *, nodes: int | None = None
    ) -> bool:
        """Search a region without what cannot be part of a better choice; return whether that is the end of it."""
        region = self._regions[index]
        left = trimmed(region, sheet, caps, goal, self._cap(sheet))
        if left is None:
            return True
        cap = self._cap(left.sheet)
        ends = completions_of(left.sheet, cap)
        descent = Descent(left.region, left.sheet, cap, self._clock, ends)
        try:
            return self._run(index, descent, nodes=nodes)
        finally:
            if descent.best is not None:
                self.best = left.best(descent.best, region)

    def _cap(self, sheet: Sheet) -> int:
        return sheet.cap if self.best is None else self.best.value - 1

    def _raise_floors(self, sheets: dict[int, Sheet]) -> None:
        for index in self._open:
            floor = sheets[self._regions[index].problem].floor
            self._open[index] = max(self._open[index], floor)

    def _order(self) -> list[int]:
        """Return the regions, the smallest first, of equals the one with the lowest bound."""
        return sorted(
            self._open, key=lambda index: (-self._regions[index].decided, self._open[index])
        )

    def _descend(
        self,
        index: int,
        sheets: dict[int, Sheet],
        *,
        beam: int | None = None,
        nodes: int | None = None,
    ) -> bool:
        """Search one region; return whether that is the end of it."""
        region = self._regions[index]
        sheet = sheets[region.problem]
        descent = Descent(region, sheet, self._cap(sheet), self._clock)
        try:
            return self._run(index, descent, beam=beam, nodes=nodes)
        finally:
            self.best = descent.best or self.best

    def _run(
        self, index: int, descent: Descent, *, beam: int | None = None, nodes: int | None = None
    ) -> bool:
        """Run a search of one region, and keep the bound of what the time does not suffice for."""
        try:
            return descent.run(beam=beam, nodes=nodes)
        except LateError:
            if descent.pending is not None and beam is None:
                self._open[index] = max(self._open[index], descent.pending)
            raise

    def _worthwhile(self) -> bool:
        """Whether a better choice may exist."""
        if self.best is None:
            return bool(self._open)
        if self.best.value == self._known:
            return False
        return min(self._open.values(), default=self.best.value) < self.best.value

    def _bound(self) -> int | None:
        found = [] if self.best is None else [self.best.value]
        return min([*self._open.values(), *found], default=None)


def reached(best: Best, goal: Goal) -> int:
    """Return what a choice reaches of a goal."""
    return int(_sums(best)[sought_columns(goal, best.region.tables)].max())


def _sums(best: Best) -> NDArray[np.int64]:
    """Return the sum of each column."""
    tables = best.region.tables
    figures = (each.figures[row] for each, row in zip(tables.decisions, best.rows, strict=True))
    return sum(figures, start=tables.base)


def _plain_floor(region: Region, goal: Goal) -> int:
    tables = region.tables
    return int((tables.base + tables.least[0][0])[sought_columns(goal, tables)].max())


def _without(regions: Sequence[Region], best: Best) -> list[Region]:
    """Return regions that hold every choice but `best`."""
    left = [region for region in regions if region is not best.region]
    allowed = list(best.region.allowed)
    for depth, row in enumerate(best.rows):
        size = len(best.region.tables.decisions[depth].options)
        here = np.arange(size) == row
        before = allowed[depth]
        others = ~here if before is None else before & ~here
        if others.any():
            changed = (*allowed[:depth], others, *allowed[depth + 1 :])
            left.append(Region(best.region.problem, best.region.tables, changed, depth))
        allowed[depth] = here
    return left
