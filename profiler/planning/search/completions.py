"""All ways to complete a choice from some decision on, arranged so that the fitting ones are found without trying all.

When many choices cost the same, what is left is close to a sum of subsets: whatever the first decisions take, the
others can just about fill the rest, and bounds exclude little before the last decision. So the last decisions are
enumerated once, and their sums put into a tree whose nodes know the least of each column below them.

Sources: E. Horowitz and S. Sahni, Computing partitions with applications to the knapsack problem, Journal of the ACM
21 (2), 1974, for the two halves; J. L. Bentley, Multidimensional binary search trees used for associative searching,
Communications of the ACM 18 (9), 1975, for the tree. From knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.search.dominance import undominated_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from profiler.planning.search.sheet import Sheet

    Whole = NDArray[np.int64]
    Numbers = NDArray[np.intp]

_MOST = 20_000
"""Completions that are enumerated at most."""
_PARTS = 16
"""Children of a node of the tree."""


class _Level(NamedTuple):
    """The nodes of one depth of the tree."""

    least: Whole  # [node, column]
    first: Numbers  # of each node: its first child
    children: Numbers  # of each node: how many


class _Ends(NamedTuple):
    """Completions, in any order."""

    states: Numbers  # before the first decision of theirs
    sums: Whole  # [completion, column]
    rows: NDArray[np.int32]  # [completion, decision of theirs]


@dataclass(frozen=True)
class Completions:
    """The completions of the choices made up to a decision.

    Attributes:
        depth: The first decision of theirs.
        rows: [completion, decision of theirs].
        levels: Of the tree; nodes of the first are the states, those of the last the completions.
    """

    depth: int
    rows: NDArray[np.int32]
    levels: tuple[_Level, ...]

    def children(self, level: int, nodes: Numbers) -> tuple[Numbers, Numbers]:
        """Return the children of `nodes`, and for each the place of its parent in `nodes`."""
        return _ranges(self.levels[level].first[nodes], self.levels[level].children[nodes])


def completions_of(sheet: Sheet, cap: int) -> Completions:
    """Return the completions of as many decisions as can be enumerated, at most all but the first."""
    depth = len(sheet.figures)
    states = len(sheet.rests[-1])
    ends = _Ends(
        np.arange(states),
        np.zeros((states, len(sheet.base)), dtype=np.int64),
        np.zeros((states, 0), dtype=np.int32),
    )
    spare = sheet.room(cap) - sheet.base
    while depth > 1:
        longer = _longer(sheet, depth - 1, ends, spare)
        if longer is None:
            break
        ends, depth = longer, depth - 1
    order, levels = _tree(ends, len(sheet.rests[depth]))
    return Completions(depth, ends.rows[order], levels)


def _longer(sheet: Sheet, depth: int, ends: _Ends, spare: Whole) -> _Ends | None:
    """Return the completions that are one decision longer; None if they are too many."""
    layer, decision = sheet.tables.layers[depth], sheet.tables.decisions[depth]
    order = np.argsort(ends.states, kind="stable")
    counts = np.bincount(ends.states, minlength=len(sheet.rests[depth + 1]))
    firsts = np.cumsum(counts) - counts
    rows = decision.counts[layer.key_numbers]
    if int((rows * counts[layer.targets]).sum()) > _MOST:
        return None
    row, step = _ranges(decision.firsts[layer.key_numbers], rows)
    place, pair = _ranges(firsts[layer.targets[step]], counts[layer.targets[step]])
    end, row, step = order[place], row[pair], step[pair]
    sums = sheet.figures[depth][row] + ends.sums[end]
    fits = np.flatnonzero((sums <= spare - sheet.before(depth)).all(axis=1))
    states = layer.sources[step[fits]]
    sums = sums[fits]
    kept = undominated_labels(states, sums[:, : len(sheet.matters)])
    chosen = fits[kept]
    joined = np.concatenate([row[chosen, None].astype(np.int32), ends.rows[end[chosen]]], axis=1)
    return _Ends(states[kept], sums[kept], joined)


def _ranges(firsts: Numbers, counts: Numbers) -> tuple[Numbers, Numbers]:
    """Return the numbers of all ranges, one after the other, and for each number which range it is in."""
    owner = np.repeat(np.arange(len(firsts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return firsts[owner] + within, owner


def _tree(ends: _Ends, states: int) -> tuple[Numbers, tuple[_Level, ...]]:
    """Return the order of the completions in the tree, and its levels."""
    order = np.argsort(ends.states, kind="stable")
    sizes = np.bincount(ends.states, minlength=states)
    levels = []
    while sizes.max(initial=0) > 1:
        order = _sorted(order, sizes, ends.sums)
        parts = np.minimum(sizes, _PARTS)
        below = _split(sizes, parts)
        levels.append((sizes, parts))
        sizes = below
    levels.append((sizes, sizes))
    sums = ends.sums[order]
    made = [
        _Level(_least(sums, of_level), np.cumsum(parts) - parts, parts)
        for of_level, parts in levels
    ]
    leaves = np.zeros(len(order), dtype=np.intp)
    return order, (*made, _Level(sums, leaves, leaves))


def _least(sums: Whole, sizes: Numbers) -> Whole:
    """Return the least of each column of each node; of a state without completions, more than any room."""
    least = np.full((len(sizes), sums.shape[1]), np.iinfo(np.int64).max // 4)
    some = np.flatnonzero(sizes)
    if len(some):
        least[some] = np.minimum.reduceat(sums, (np.cumsum(sizes) - sizes)[some])
    return least


def _sorted(order: Numbers, sizes: Numbers, sums: Whole) -> Numbers:
    """Return the completions of each node sorted by the column in which they differ most."""
    some = sizes[sizes > 0]
    firsts = np.cumsum(some) - some
    ordered = sums[order].astype(float)
    spans = np.maximum(
        np.maximum.reduceat(ordered, firsts) - np.minimum.reduceat(ordered, firsts), 0
    )
    widths = spans / np.maximum(ordered.max(axis=0) - ordered.min(axis=0), 1)
    nodes = np.repeat(np.arange(len(some)), some)
    values = ordered[np.arange(len(order)), widths.argmax(axis=1)[nodes]]
    return order[np.lexsort((values, nodes))]


def _split(sizes: Numbers, parts: Numbers) -> Numbers:
    """Return the sizes of the parts of each node, as equal as they can be."""
    owner = np.repeat(np.arange(len(sizes)), parts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    return sizes[owner] // parts[owner] + (within < sizes[owner] % parts[owner])
