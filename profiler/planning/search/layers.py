"""The search itself: decision after decision, over many partial choices at once.

Partial choices of one depth are rows of arrays (*labels*). A label goes on to every option that the rule allows and
with which each column, and each surrogate of several columns, can still stay within its cap: what the open decisions
take at the least is known by the state of the rule. A label is left out where another of the same state is no worse
in any column that can still matter. Labels of the best bounds are followed to the end first, so that a complete choice
is known early; each better one lowers the cap of the goal for all others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.search.dominance import undominated_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.completions import Completions
    from profiler.planning.search.sheet import Sheet
    from profiler.planning.search.tables import Tables

    Whole = NDArray[np.int64]

_FIRST, _CHUNK = 64, 4096
"""Labels that are followed together: those of the best bounds first."""
_AT_ONCE = 1_000_000
"""Pairs of label and option looked at in one go."""
_SMALL = 50_000
"""So many comparisons are made in one go; more, column by column."""

_SAMPLE = 256
"""Pairs of label and node from which it is seen which columns exclude most."""


class LateError(Exception):
    """The time is up."""


class _EnoughError(Exception):
    """The nodes are used up."""


@dataclass
class Clock:
    """When to stop, and how much was done."""

    ends: float | None
    nodes: int = 0

    def check(self) -> None:
        """Raise LateError where the time is up."""
        if self.ends is not None and time.monotonic() >= self.ends:
            raise LateError


@dataclass(frozen=True)
class Region:
    """Choices of one problem: all, or those whose options are among `allowed`."""

    problem: int
    tables: Tables
    allowed: tuple[NDArray[np.bool_] | None, ...]  # of each decision: its rows; None for all
    decided: int = 0  # for how many decisions one row is left


class Labels(NamedTuple):
    """Partial choices."""

    states: NDArray[np.intp]
    sums: Whole  # [label, column]
    rows: NDArray[np.int32]  # [label, decision]
    bounds: Whole  # of the goal

    def take(self, indices: NDArray[np.intp] | slice) -> Labels:
        """Return some of them."""
        return Labels(
            self.states[indices], self.sums[indices], self.rows[indices], self.bounds[indices]
        )


class _Pairs(NamedTuple):
    """Partial choices beside nodes of the tree of completions."""

    labels: NDArray[np.intp]
    nodes: NDArray[np.intp]


class Best(NamedTuple):
    """A complete choice and what it reaches of the goal."""

    value: int
    region: Region
    rows: tuple[int, ...]


class Descent:
    """One search of one region.

    Attributes:
        best: The best choice found; None where none keeps the caps.
        pending: A bound of what the time did not suffice for; None where it did.

    Args:
        region: Where to search.
        sheet: The figures of the region's problem.
        cap: What the goal may reach.
        clock: When to stop.
        completions: The ways to complete a choice from some decision on; None to go on decision after decision.
    """

    def __init__(
        self,
        region: Region,
        sheet: Sheet,
        cap: int,
        clock: Clock,
        completions: Completions | None = None,
    ) -> None:
        self.best: Best | None = None
        self.pending: int | None = None
        self._region, self._sheet, self._clock = region, sheet, clock
        self._completions = completions
        self._last = len(sheet.figures) - 1
        self._nodes_left: int | None = None
        self._lower(min(cap, sheet.cap))

    def run(self, *, beam: int | None = None, nodes: int | None = None) -> bool:
        """Search; return whether that is the end of it.

        Args:
            beam: Follow only so many labels at each depth: the quick way to a good choice.
            nodes: Give up after so many labels.

        Raises:
            LateError: when the time is up.
        """
        self._nodes_left = nodes
        root = self._root()
        if not len(root.states):
            return True
        if self._last < 0:
            self._finish(root)
            return True
        try:
            self._follow(0, root, beam)
        except _EnoughError:
            self.pending = None
            return False
        return beam is None

    def _root(self) -> Labels:
        """Return the empty choice, if it can keep the caps."""
        sheet = self._sheet
        fits = self._cap >= sheet.floor and (sheet.base + sheet.rests[0][0] <= self._room).all()
        root = Labels(
            np.zeros(1, dtype=np.intp),
            sheet.base[None],
            np.zeros((1, len(sheet.figures)), dtype=np.int32),
            np.full(1, sheet.floor),
        )
        return root.take(slice(0, int(fits)))

    def frontier(self, most: int) -> tuple[int, Labels]:
        """Return the first depth with at least `most` labels, or the last but one, and all its labels."""
        depth, labels = 0, self._root()
        while depth < self._last and 0 < len(labels.states) < most:
            labels = _concatenated(list(self._expanded(depth, labels)))
            depth += 1
        return depth, labels

    def _lower(self, cap: int) -> None:
        """Accept only what reaches `cap`."""
        self._cap = self._sheet.attainable(cap)
        self._room = self._sheet.room(self._cap)

    def _follow(self, depth: int, labels: Labels, beam: int | None) -> None:
        try:
            pieces = self._pieces(depth, labels)
        except LateError:
            self._leave(labels)
            raise
        if not pieces:
            return
        children = self._thinned(depth + 1, _concatenated(pieces))
        if beam is not None:
            self._follow(depth + 1, self._promising(depth + 1, children, beam), beam)
            return
        children = children.take(np.argsort(children.bounds, kind="stable"))
        for chunk in _chunks(len(children.states)):
            labels = children.take(chunk)
            if labels.bounds[0] > self._cap:
                return
            try:
                self._follow(depth + 1, labels, None)
            except LateError:
                self._leave(children.take(slice(chunk.stop, None)))
                raise

    def _pieces(self, depth: int, labels: Labels) -> list[Labels]:
        """Return the children of `labels`; complete choices are taken note of instead."""
        if self._completions is not None and self._completions.depth == depth:
            labels = labels.take(np.flatnonzero(labels.bounds <= self._cap))
            self._join(
                self._completions, 0, labels, _Pairs(np.arange(len(labels.states)), labels.states)
            )
            return []
        pieces = []
        for piece in self._expanded(depth, labels):
            if depth == self._last:
                self._finish(piece)
            elif len(piece.states):
                pieces.append(piece)
        return pieces

    def _promising(self, depth: int, labels: Labels, count: int) -> Labels:
        """Return `count` labels: half of them those of the lowest bounds, half those that leave most room."""
        sheet = self._sheet
        lowest = sheet.base + sheet.rests[0][0]
        room = np.maximum(self._room - lowest, 1).astype(float)
        least = labels.sums + sheet.rests[depth][labels.states]
        tightness = ((least - lowest) / room).max(axis=1, initial=0.0)
        best = np.argsort(labels.bounds, kind="stable")[: count // 2]
        roomy = np.argsort(tightness, kind="stable")[: count // 2]
        return labels.take(np.unique(np.concatenate([best, roomy])))

    def _leave(self, labels: Labels) -> None:
        bounds = labels.bounds.tolist() + ([] if self.pending is None else [self.pending])
        self.pending = min(bounds, default=None)

    def _finish(self, labels: Labels) -> None:
        """Take note of the best of complete choices."""
        if not len(labels.states):
            return
        index = int(labels.bounds.argmin())
        value = int(labels.bounds[index])
        if value <= self._cap:
            self.best = Best(value, self._region, tuple(labels.rows[index].tolist()))
            self._lower(value - 1)

    def _join(self, ends: Completions, level: int, labels: Labels, pairs: _Pairs) -> None:
        """Take note of the best of `labels` with their completions, below the nodes of one level of their tree."""
        self._clock.check()
        least = ends.levels[level + 1].least
        node, parent = ends.children(level, pairs.nodes)
        pairs = self._fitting(labels.sums, least, _Pairs(pairs.labels[parent], node))
        self._count(len(pairs.nodes))
        sums = labels.sums[pairs.labels] + least[pairs.nodes]
        bounds = self._sheet.bounds(sums)
        order = np.argsort(bounds, kind="stable")
        bounds, pairs = bounds[order], _Pairs(*(each[order] for each in pairs))
        if level + 2 == len(ends.levels):
            first = slice(0, 1)
            rows = labels.rows[pairs.labels[first]]
            rows[:, ends.depth :] = ends.rows[pairs.nodes[first]]
            self._finish(Labels(pairs.nodes[first], sums[order[first]], rows, bounds[first]))
            return
        for chunk in _chunks(len(bounds)):
            if len(bounds[chunk]) and bounds[chunk][0] <= self._cap:
                self._join(ends, level + 1, labels, _Pairs(*(each[chunk] for each in pairs)))

    def _fitting(self, sums: Whole, least: Whole, pairs: _Pairs) -> _Pairs:
        """Return the pairs whose `sums` and `least` together exceed no cap, the columns that exclude most first."""
        sample = _Pairs(*(each[:: len(each) // _SAMPLE + 1] for each in pairs))
        over = (sums[sample.labels] + least[sample.nodes] > self._room).sum(axis=0)
        for column in np.argsort(-over, kind="stable"):
            taken = sums[:, column][pairs.labels] + least[:, column][pairs.nodes]
            fits = np.flatnonzero(taken <= self._room[column])
            if len(fits) < len(taken):
                pairs = _Pairs(*(each[fits] for each in pairs))
        return pairs

    def _expanded(self, depth: int, labels: Labels) -> Iterator[Labels]:
        """Yield the children of `labels` that may still reach the caps."""
        size = max(_AT_ONCE // len(self._sheet.figures[depth]), 1)
        for start in range(0, len(labels.states), size):
            self._clock.check()
            some = labels.take(slice(start, start + size))
            some = some.take(np.flatnonzero(some.bounds <= self._cap))
            self._count(len(some.states))
            yield self._children(depth, some)

    def _count(self, nodes: int) -> None:
        self._clock.nodes += nodes
        if self._nodes_left is not None:
            self._nodes_left -= nodes
            if self._nodes_left < 0:
                raise _EnoughError

    def _children(self, depth: int, labels: Labels) -> Labels:
        """Return the children of `labels` that may still reach the caps."""
        sheet = self._sheet
        figures, rests = sheet.figures[depth], sheet.rests[depth + 1]
        targets = self._region.tables.layers[depth].table[labels.states]
        found = [self._fits(depth, labels, key, targets[:, key]) for key in range(targets.shape[1])]
        parent, row = (np.concatenate(column) for column in zip(*found, strict=True))
        keys = np.repeat(np.arange(len(found)), [len(rows) for _, rows in found])
        states = targets[parent, keys]
        sums = labels.sums[parent] + figures[row]
        rows = labels.rows[parent]
        rows[:, depth] = row
        return Labels(states, sums, rows, sheet.bounds(sums + rests[states]))

    def _fits(
        self, depth: int, labels: Labels, key: int, targets: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the pairs of label and row of one key with which no column must exceed its cap."""
        sheet, decision = self._sheet, self._region.tables.decisions[depth]
        label = np.flatnonzero(targets >= 0)
        spare = self._room - labels.sums[label] - sheet.rests[depth + 1][targets[label]]
        fit = np.flatnonzero((sheet.least_of_keys[depth][key] <= spare).all(axis=1))
        label, spare = label[fit], spare[fit]
        first = decision.firsts[key]
        options = slice(first, first + decision.counts[key])
        fits = _all_at_most(sheet.figures[depth][options], spare)
        allowed = self._region.allowed[depth]
        if allowed is not None:
            fits &= allowed[options]
        pair, row = np.nonzero(fits)
        return label[pair], row + first

    def _thinned(self, depth: int, labels: Labels) -> Labels:
        """Leave out labels where another of the same state is no worse in all that can still matter."""
        sums = self._sheet.clamped(labels.sums, depth)
        return labels.take(undominated_labels(labels.states, sums))


def _chunks(count: int) -> Iterator[slice]:
    """Yield slices: a small one first, so that it soon comes to an end."""
    yield slice(0, _FIRST)
    for start in range(_FIRST, count, _CHUNK):
        yield slice(start, start + _CHUNK)


def _all_at_most(figures: Whole, spare: Whole) -> NDArray[np.bool_]:
    """Return for each row of `spare` and each of `figures` whether no column of the latter is over the former's."""
    if len(figures) * spare.size < _SMALL:
        within = figures <= spare[:, None]
        together: NDArray[np.bool_] = np.logical_and.reduce(within, axis=2)
        return together
    fits = np.ones((len(spare), len(figures)), dtype=bool)
    for figure, most in zip(figures.T, spare.T, strict=True):
        np.logical_and(fits, figure <= most[:, None], out=fits)
    return fits


def _concatenated(pieces: Sequence[Labels]) -> Labels:
    if len(pieces) == 1:
        return pieces[0]
    return Labels(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))
