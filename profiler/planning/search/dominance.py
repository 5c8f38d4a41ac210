"""What can be left out, because something else is no worse in anything: options, and partial choices (labels).

Of options none is missed, for the answer depends on it. Of labels some may be: that costs time only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.records import Option

_ALL = 64
"""So many labels are compared each with each."""
_RIVALS = 8
"""Of more, each is compared with so many of its state, those with the least sums."""


def table_of(options: Sequence[Option], resources: int) -> NDArray[np.int64]:
    """Return cost, penalty, uses and loads of each option, one row each.

    Raises:
        OverflowError: if a figure does not fit 64 bits.
    """
    rows = [
        (
            option.cost,
            option.penalty,
            *option.uses[:resources],
            *(0,) * (resources - len(option.uses)),
            *option.load,
        )
        for option in options
    ]
    return np.array(rows, dtype=np.int64)


def undominated(keys: Sequence[str], table: NDArray[np.int64]) -> list[int]:
    """Return the rows of `table` that no other row of the same key dominates; of equal rows, the first."""
    _, numbers = np.unique(keys, return_inverse=True)
    return [int(row) for row in undominated_rows(numbers, table)]


def undominated_rows(keys: NDArray[np.intp], table: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the rows of `table` that no other row of the same key dominates; of equal rows, the first."""
    by_key = (np.flatnonzero(keys == key) for key in np.unique(keys))
    kept = [index for indices in by_key for index in _minimal(indices, table)]
    return np.sort(np.array(kept, dtype=np.intp))


def _minimal(indices: NDArray[np.intp], table: NDArray[np.int64]) -> list[int]:
    """Return those of `indices`, in rising order, whose rows no other one's row dominates."""
    rows = table[indices]
    if len(rows) <= _ALL:
        first = _compared_all(np.zeros(len(rows), dtype=np.intp), rows)
        return [int(index) for index in indices[first]]
    # Who dominates comes no later in this order: sorted by all columns, of equals the first stays first.
    order = np.lexsort((indices, *rows.T[::-1]))
    left = order
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(indices[best]))
        left = left[(rows[left] < rows[best]).any(axis=1)]
    return kept


def undominated_labels(states: NDArray[np.intp], sums: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return labels without at least some of those that another of their state dominates; of equal ones, the first.

    Args:
        states: Of each label.
        sums: [label, column].
    """
    if len(states) <= _ALL:
        return _compared_all(states, sums)
    kept = _different(states, sums)
    return kept[_compared_some(states[kept], sums[kept])]


def _compared_all(states: NDArray[np.intp], sums: NDArray[np.int64]) -> NDArray[np.intp]:
    no_worse = (sums[:, None] <= sums[None]).all(axis=2) & (states[:, None] == states[None])
    # Equals are no worse than each other: the first beats the others.
    beats = no_worse & ~np.tril(no_worse.T, 0)
    return np.flatnonzero(~beats.any(axis=0))


def _different(states: NDArray[np.intp], sums: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return labels of which no two are equal: candidates by a hash, then compared."""
    chance = np.random.default_rng(0)
    factors = chance.integers(1, 1 << 62, sums.shape[1] + 1) * 2 + 1
    marks = sums @ factors[1:] + states * factors[0]  # wraps around, as it may
    _, first, number = np.unique(marks, return_index=True, return_inverse=True)
    other = first[number]
    equal = (states == states[other]) & (sums == sums[other]).all(axis=1)
    return np.flatnonzero(~equal | (other == np.arange(len(states))))


def _compared_some(states: NDArray[np.intp], sums: NDArray[np.int64]) -> NDArray[np.intp]:
    spans = np.maximum(sums.max(axis=0) - sums.min(axis=0), 1).astype(float)
    order = np.lexsort(((sums / spans).sum(axis=1), states))
    first = np.searchsorted(states[order], states[order])  # of each label's state
    place = np.arange(len(states))
    beaten = np.zeros(len(states), dtype=bool)
    for rival in range(_RIVALS):
        compared = np.flatnonzero((first + rival < place) & ~beaten)
        others = sums[order[first[compared] + rival]]
        beaten[compared] = (others <= sums[order[compared]]).all(axis=1)
        if beaten.sum() < rival * len(states) // 50:
            break  # hardly any: the others are not worth the time
    return np.sort(order[~beaten])
