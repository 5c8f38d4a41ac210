"""Which options can be left out, because another with the same key is no worse in anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.searching.records import Option


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
    by_key: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        by_key.setdefault(key, []).append(index)
    kept: list[int] = []
    for indices in by_key.values():
        kept += _minimal(np.array(indices), table)
    return sorted(kept)


def _minimal(indices: NDArray[np.int64], table: NDArray[np.int64]) -> list[int]:
    rows = table[indices]
    # Who dominates comes no later in this order: sorted by all columns, of equals the first stays first.
    order = np.lexsort((indices, *rows.T[::-1]))
    left = order
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(indices[best]))
        left = left[(rows[left] < rows[best]).any(axis=1)]
    return kept
