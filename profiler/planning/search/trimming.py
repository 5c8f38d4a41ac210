"""A region made smaller before it is searched: options, keys and states with which no choice keeps the caps.

What the decisions before take at the least, by state, and what those after take, bound every column and surrogate of
the choices with one option, as reduced costs do in integer programming. What is left has less to spread: more columns
can no longer decide anything, and more options are dominated in those that can. So it is done again until nothing
changes.

Source: G. B. Dantzig, D. R. Fulkerson and S. M. Johnson, Solution of a large-scale traveling-salesman problem, Journal
of the Operations Research Society of America 2 (4), 1954, for options left out by their bounds. From knowledge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.search.automaton import restricted
from profiler.planning.search.dominance import undominated_rows
from profiler.planning.search.layers import Region
from profiler.planning.search.sheet import Sheet
from profiler.planning.search.tables import Decision, made_tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from profiler.planning.search.automaton import Layer
    from profiler.planning.search.goals import Caps, Goal
    from profiler.planning.search.layers import Best

    Whole = NDArray[np.int64]
    Mask = NDArray[np.bool_]

_ROUNDS = 4
"""So often it is done again at most: later rounds gain little."""


class Trimmed(NamedTuple):
    """What is left of a region."""

    region: Region
    sheet: Sheet
    rows: tuple[NDArray[np.intp], ...]  # of each decision: its rows in the region's own tables

    def best(self, found: Best, region: Region) -> Best:
        """Return a choice of what is left as one of `region`, of which it is left."""
        pairs = zip(self.rows, found.rows, strict=True)
        return found._replace(region=region, rows=tuple(int(rows[row]) for rows, row in pairs))


def trimmed(region: Region, sheet: Sheet, caps: Caps, goal: Goal, cap: int) -> Trimmed | None:
    """Return `region` without what cannot keep the caps; None if no choice can.

    Args:
        region: What to search.
        sheet: The figures of its problem.
        caps: What may be spent.
        goal: What is sought.
        cap: What the goal may reach.
    """
    rows = [np.arange(len(each.options)) for each in region.tables.decisions]
    allowed = [
        np.ones(len(row), dtype=bool) if mask is None else mask
        for row, mask in zip(rows, region.allowed, strict=True)
    ]
    left = Trimmed(Region(region.problem, region.tables, tuple(allowed)), sheet, tuple(rows))
    capped = caps.lowered(goal, cap)
    for _ in range(_ROUNDS):
        smaller = _trimmed_once(left, capped, goal, cap)
        if smaller is None or sum(map(len, smaller.rows)) == sum(map(len, left.rows)):
            return smaller
        left = smaller
    return left


def _trimmed_once(left: Trimmed, caps: Caps, goal: Goal, cap: int) -> Trimmed | None:
    tables, sheet = left.region.tables, left.sheet
    kept, steps = _Kept(left, cap).kept()
    layers = restricted(tables.layers, steps)
    if layers is None:
        return None
    # A key that no step is left for takes its rows with it.
    masks = [
        mask & np.isin(_keys(decision, old), np.flatnonzero(np.isin(old.keys, new.keys)))
        for mask, decision, old, new in zip(
            kept, tables.decisions, tables.layers, layers, strict=True
        )
    ]
    pairs = zip(tables.decisions, masks, strict=True)
    decisions = [_with_rows(decision, mask) for decision, mask in pairs]
    made = made_tables(decisions, layers, tables.base, tables.loads)
    rows = tuple(row[mask] for row, mask in zip(left.rows, masks, strict=True))
    region = Region(left.region.problem, made, (None,) * len(decisions))
    return Trimmed(region, Sheet(made, caps, goal, list(sheet.weights)), rows)


def _keys(decision: Decision, layer: Layer) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(layer.keys)), decision.counts)


def _with_rows(decision: Decision, mask: Mask) -> Decision:
    counts = np.add.reduceat(mask, decision.firsts, dtype=np.intp)
    counts = counts[counts > 0]
    return Decision(
        decision.options[mask], decision.figures[mask], np.cumsum(counts) - counts, counts
    )


class _Kept:
    """The rows and steps that may be part of a choice within the caps."""

    def __init__(self, left: Trimmed, cap: int) -> None:
        self._tables, self._sheet = left.region.tables, left.sheet
        self._allowed = left.region.allowed
        self._room = left.sheet.room(cap)

    def kept(self) -> tuple[list[Mask], list[Mask]]:
        """Return masks of the rows and of the steps of each decision."""
        before = self._sheet.base[None]
        alive = np.ones(1, dtype=bool)
        kept, steps = [], []
        for depth in range(len(self._tables.decisions)):
            rows, step = self._of(depth, before, alive)
            before, alive = self._after(depth, before, rows, step)
            kept.append(rows)
            steps.append(step)
        return kept, steps

    def _of(self, depth: int, before: Whole, alive: Mask) -> tuple[Mask, Mask]:
        sheet, layer = self._sheet, self._tables.layers[depth]
        decision, figures = self._tables.decisions[depth], sheet.figures[depth]
        least = before[layer.sources] + sheet.rests[depth + 1][layer.targets]
        fits = (least + sheet.least_of_keys[depth][layer.key_numbers] <= self._room).all(axis=1)
        step = fits & alive[layer.sources]
        rows = np.zeros(len(figures), dtype=bool)
        for key, (first, count) in enumerate(zip(decision.firsts, decision.counts, strict=True)):
            through = step & (layer.key_numbers == key)
            if through.any():
                spare = self._room - least[through].min(axis=0)
                rows[first : first + count] = (figures[first : first + count] <= spare).all(axis=1)
        allowed = self._allowed[depth]
        if allowed is not None:
            rows &= allowed
        rows = self._undominated(depth, rows)
        left = np.add.reduceat(rows, decision.firsts, dtype=np.intp) > 0
        return rows, step & left[layer.key_numbers]

    def _undominated(self, depth: int, rows: Mask) -> Mask:
        """Return those of `rows` that no other of the same key beats in all that can still matter."""
        keys = _keys(self._tables.decisions[depth], self._tables.layers[depth])
        matters = self._sheet.figures[depth][:, : len(self._sheet.matters)]
        chosen = np.flatnonzero(rows)
        left = np.zeros(len(rows), dtype=bool)
        left[chosen[undominated_rows(keys[chosen], matters[chosen])]] = True
        return left

    def _after(self, depth: int, before: Whole, rows: Mask, step: Mask) -> tuple[Whole, Mask]:
        """Return what the decisions so far take at the least by state, and which states can be reached."""
        layer, decision = self._tables.layers[depth], self._tables.decisions[depth]
        states = len(self._sheet.rests[depth + 1])
        after = np.zeros((states, before.shape[1]), dtype=np.int64)
        alive = np.zeros(states, dtype=bool)
        if step.any():
            least = decision.least(
                np.where(rows[:, None], self._sheet.figures[depth], np.iinfo(np.int64).max)
            )
            chosen = np.flatnonzero(step)
            chosen = chosen[np.argsort(layer.targets[chosen], kind="stable")]
            sums = before[layer.sources[chosen]] + least[layer.key_numbers[chosen]]
            targets, firsts = np.unique(layer.targets[chosen], return_index=True)
            after[targets] = np.minimum.reduceat(sums, firsts)
            alive[targets] = True
        return after, alive
