"""A problem's rule as tables: which states there are after each decision, and where each key leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from profiler.planning.search.records import Problem

Number = TypeVar("Number", np.int64, np.float64)

NOWHERE = -1


@dataclass(frozen=True)
class Layer:
    """The steps of one decision. A step goes from a state by a key to a state; sorted by where they come from."""

    keys: tuple[str, ...]
    sources: NDArray[np.intp]
    key_numbers: NDArray[np.intp]
    targets: NDArray[np.intp]
    first_steps: NDArray[np.intp]  # of each state
    table: NDArray[np.intp]  # [state, key]: target or NOWHERE

    def least(self, of_keys: NDArray[Number], of_targets: NDArray[Number]) -> NDArray[Number]:
        """Return for each state the least sum of a key's and its target's figures; columns each by themselves."""
        sums = of_keys[self.key_numbers] + of_targets[self.targets]
        least: NDArray[Number] = np.minimum.reduceat(sums, self.first_steps)
        return least


def layers_of(problem: Problem, keys: Sequence[Sequence[str]]) -> list[Layer] | None:
    """Return a layer for each decision, whose options have `keys`; None where no choice is allowed.

    States that cannot be reached, or from which no allowed choice can be completed, are left out.
    """
    states: list[Any] = [problem.start]
    steps: list[list[tuple[int, int, int]]] = []
    for of_decision in keys:
        numbers: dict[Any, int] = {}
        layer = []
        for source, state in enumerate(states):
            for number, key in enumerate(of_decision):
                after = problem.step(state, key)
                if after is not None:
                    layer.append((source, number, numbers.setdefault(after, len(numbers))))
        states = list(numbers)
        steps.append(layer)
    return _completed(steps, keys, len(states)) if states else None


def _completed(
    steps: list[list[tuple[int, int, int]]], keys: Sequence[Sequence[str]], ends: int
) -> list[Layer]:
    layers: list[Layer] = []
    alive = {state: state for state in range(ends)}
    for layer, of_decision in zip(reversed(steps), reversed(keys), strict=True):
        kept = [step for step in layer if step[2] in alive]
        # Sources come in rising order, so their new numbers do too.
        sources = {
            source: number for number, source in enumerate(dict.fromkeys(s[0] for s in kept))
        }
        rows = [(sources[source], key, alive[target]) for source, key, target in kept]
        layers.append(_layer(tuple(of_decision), np.array(rows, dtype=np.intp), len(sources)))
        alive = sources
    return layers[::-1]


def _layer(keys: tuple[str, ...], rows: NDArray[np.intp], states: int) -> Layer:
    sources, key_numbers, targets = rows.T
    table = np.full((states, len(keys)), NOWHERE, dtype=np.intp)
    table[sources, key_numbers] = targets
    first_steps = np.searchsorted(sources, np.arange(states))
    return Layer(keys, sources, key_numbers, targets, first_steps, table)
