"""A problem as tables of 64-bit integers, made once for all searches of it.

Everything that adds up over the decisions is a *column*: cost, penalty, each use, the load at each moment. Dominated
options are left out, and moments that are never higher than another. `least` bounds each column from below for what
is still to be decided, by the state of the rule.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.search.automaton import Number, layers_of
from profiler.planning.search.dominance import table_of, undominated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.automaton import Layer
    from profiler.planning.search.records import Option, Problem

COST, PENALTY, USES = 0, 1, 2  # columns; the uses are followed by the loads
MOST = 1 << 61  # no sum may reach it


@dataclass(frozen=True)
class Decision:
    """The options of one decision, sorted by key."""

    options: NDArray[np.intp]  # their numbers in the problem
    figures: NDArray[np.int64]  # [option, column]
    firsts: NDArray[np.intp]  # of each key: its first row
    counts: NDArray[np.intp]  # of each key: its rows

    def least(self, columns: NDArray[Number]) -> NDArray[Number]:
        """Return the least of each key; `columns` are [option, ...]."""
        least: NDArray[Number] = np.minimum.reduceat(columns, self.firsts)
        return least


class Grid(NamedTuple):
    """The sums that a column can have: those that differ from `origin` by a multiple of `step`.

    Bytes come in multiples of a block, so that a limit between two multiples is as good as the lower one.
    """

    origin: NDArray[np.int64]  # [column]
    step: NDArray[np.int64]  # [column]; 0 where every choice has the same sum

    def down(self, sums: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the highest possible sum of each column that is at most that of `sums`."""
        return sums - (sums - self.origin) % np.maximum(self.step, 1)

    def of(self, columns: NDArray[np.bool_]) -> Grid:
        """Return the grid of some columns."""
        return Grid(self.origin[columns], self.step[columns])


@dataclass(frozen=True)
class Tables:
    """A problem that has at least one allowed choice."""

    decisions: tuple[Decision, ...]
    layers: tuple[Layer, ...]
    base: NDArray[np.int64]  # [column]
    loads: int  # the first column of loads
    least: tuple[
        NDArray[np.int64], ...
    ]  # before each decision, and after the last: [state, column]
    most: NDArray[
        np.int64
    ]  # [decisions made, column]: of the decisions still open, whatever the rule says
    grid: Grid


def tables_of(problem: Problem, resources: int) -> Tables | None:
    """Return the tables of `problem`, with `resources` columns of uses; None where the rule allows no choice.

    Raises:
        OverflowError: if a sum could exceed 61 bits.
    """
    if not all(problem.decisions):
        return None
    kept = [_kept(options, resources) for options in problem.decisions]
    layers = layers_of(problem, [each.keys for each in kept])
    if layers is None:
        return None
    uses = (*problem.base_uses, *(0,) * (resources - len(problem.base_uses)))
    base = np.array([0, problem.penalty, *uses, *problem.base], dtype=np.int64)
    _check(base, [each.figures for each in kept])
    loads = USES + resources
    columns = np.array([*range(loads), *(loads + _highest(base, kept, loads))])
    return made_tables([each.decision(columns) for each in kept], layers, base[columns], loads)


def made_tables(
    decisions: Sequence[Decision], layers: Sequence[Layer], base: NDArray[np.int64], loads: int
) -> Tables:
    """Return the tables of decisions and the layers of their rule, with the bounds of each column."""
    ends = layers[-1].ends if layers else 1
    least = [np.zeros((ends, len(base)), dtype=np.int64)]
    most = [np.zeros(len(base), dtype=np.int64)]
    for decision, layer in zip(reversed(decisions), reversed(layers), strict=True):
        least.append(layer.least(decision.least(decision.figures), least[-1]))
        most.append(most[-1] + decision.figures.max(axis=0))
    return Tables(
        decisions=tuple(decisions),
        layers=tuple(layers),
        base=base,
        loads=loads,
        least=tuple(least[::-1]),
        most=np.array(most[::-1]),
        grid=_grid(decisions, base),
    )


def _grid(decisions: Sequence[Decision], base: NDArray[np.int64]) -> Grid:
    origin, step = base, np.zeros(len(base), dtype=np.int64)
    for decision in decisions:
        origin = origin + decision.figures[0]
        step = np.gcd(step, np.gcd.reduce(decision.figures - decision.figures[0], axis=0))
    return Grid(origin, step)


class _Kept(NamedTuple):
    """The options that are not dominated, sorted by key, with all columns."""

    keys: tuple[str, ...]  # each once
    options: NDArray[np.intp]
    figures: NDArray[np.int64]
    counts: NDArray[np.intp]  # of each key

    def decision(self, columns: NDArray[np.intp]) -> Decision:
        firsts = np.cumsum(self.counts) - self.counts
        return Decision(self.options, self.figures[:, columns], firsts, self.counts)


def _kept(options: Sequence[Option], resources: int) -> _Kept:
    figures = table_of(options, resources)
    keys = [option.key for option in options]
    rows = undominated(keys, figures)
    chosen = np.array(sorted(rows, key=lambda row: keys[row]), dtype=np.intp)
    counts = Counter(keys[row] for row in rows)
    names = tuple(sorted(counts))
    return _Kept(names, chosen, figures[chosen], np.array([counts[name] for name in names]))


def _check(base: NDArray[np.int64], figures: Sequence[NDArray[np.int64]]) -> None:
    """Raise OverflowError where 64 bits may not hold a sum; counted with floats, which do not wrap."""
    sums = np.abs(base).astype(float)
    for rows in figures:
        sums += np.abs(rows.astype(float)).max(axis=0)
    if sums.max(initial=0) >= MOST:
        raise OverflowError(f"the figures of a choice may add up to {sums.max():.3g}, over 2^61")


def _highest(base: NDArray[np.int64], kept: Sequence[_Kept], loads: int) -> NDArray[np.intp]:
    """Return the moments that no other moment is always as high as; of equal ones the first."""
    every = np.concatenate([base[None, loads:], *(each.figures[:, loads:] for each in kept)])
    _, moments = np.unique(every, axis=1, return_index=True)
    every = every[:, moments]
    starts = np.cumsum([0, 1, *(len(each.options) for each in kept)])[:-1]
    # The highest first: they rule out most.
    order = np.argsort(-np.maximum.reduceat(every, starts).sum(axis=0), kind="stable")
    left, found = list(order), []
    while left:
        best = left.pop(0)
        found.append(best)
        above = np.maximum.reduceat(every[:, left] - every[:, [best]], starts).sum(axis=0)
        left = [moment for moment, over in zip(left, above, strict=True) if over > 0]
    return np.sort(moments[found])
