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
    ends: int  # states after it

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
    layers: list[Layer] = []
    for of_decision in keys:
        numbers: dict[Any, int] = {}
        steps = []
        for source, state in enumerate(states):
            for number, key in enumerate(of_decision):
                after = problem.step(state, key)
                if after is not None:
                    steps.append((source, number, numbers.setdefault(after, len(numbers))))
        if not steps:
            return None
        rows = np.array(steps, dtype=np.intp)
        layers.append(_layer(tuple(of_decision), rows, len(states), len(numbers)))
        states = list(numbers)
    kept = _completed(layers, [np.ones(len(layer.sources), dtype=bool) for layer in layers])
    return [_renumbered(layer, step) for layer, step in zip(layers, kept, strict=True)]


def restricted(layers: Sequence[Layer], steps: Sequence[NDArray[np.bool_]]) -> list[Layer] | None:
    """Return layers of those `steps` alone that are part of a complete choice; None if there is none.

    Keys without a step are left out.
    """
    kept = _completed(layers, steps)
    if not all(step.any() for step in kept):
        return None
    return [
        _without_keys(_renumbered(layer, step)) for layer, step in zip(layers, kept, strict=True)
    ]


def _completed(
    layers: Sequence[Layer], steps: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.bool_]]:
    """Return which of `steps` are part of a complete choice."""
    kept = []
    reached = np.ones(1, dtype=bool)
    for layer, step in zip(layers, steps, strict=True):
        kept.append(step & reached[layer.sources])
        reached = _marked(layer.targets[kept[-1]], layer.ends)
    for depth in reversed(range(len(layers))):
        layer = layers[depth]
        kept[depth] &= reached[layer.targets]
        reached = _marked(layer.sources[kept[depth]], len(layer.table))
    return kept


def _marked(numbers: NDArray[np.intp], count: int) -> NDArray[np.bool_]:
    marked = np.zeros(count, dtype=bool)
    marked[numbers] = True
    return marked


def _renumbered(layer: Layer, kept: NDArray[np.bool_]) -> Layer:
    """Return a layer of some steps, with its states numbered anew in the same order."""
    sources, source = np.unique(layer.sources[kept], return_inverse=True)
    targets, target = np.unique(layer.targets[kept], return_inverse=True)
    rows = np.stack([source, layer.key_numbers[kept], target], axis=1)
    return _layer(layer.keys, rows, len(sources), len(targets))


def _without_keys(layer: Layer) -> Layer:
    """Return a layer without the keys that have no step."""
    keys, key = np.unique(layer.key_numbers, return_inverse=True)
    rows = np.stack([layer.sources, key, layer.targets], axis=1)
    return _layer(tuple(layer.keys[key] for key in keys), rows, len(layer.table), layer.ends)


def _layer(keys: tuple[str, ...], rows: NDArray[np.intp], states: int, ends: int) -> Layer:
    sources, key_numbers, targets = rows.T
    table = np.full((states, len(keys)), NOWHERE, dtype=np.intp)
    table[sources, key_numbers] = targets
    first_steps = np.searchsorted(sources, np.arange(states))
    return Layer(keys, sources, key_numbers, targets, first_steps, table, ends)
