"""Model offload as a search problem: choose a placement for each component so that the links form one sequence.

Each component chooses its successor in the sequence (`costs.table` explains why nothing else matters), or to be the
last of the sequence, outside of it, excluded, or split. Stock diffusers' end of a call and our own are two separate
problems. A pipeline in which nothing carries a hook is a third, with a single choice. A modular pipeline has no model
offload: its components stay, are split, or stay with streamed blocks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from profiler.placements import evictions
from profiler.placements.evictions import COPY, PINNED
from profiler.placements.scheme import Scheme
from profiler.planning.costs.table import SPLIT, Choice, choices_in
from profiler.planning.costs.whole_components import STAYS, TRAVELS, UNEVICTED
from profiler.planning.search.solver import Found, Option, Problem
from profiler.planning.sequence_rule import APART, EXCLUDED, KEPT, LAST, OUTSIDE, SequenceRule
from profiler.planning.vocabulary import placements

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from profiler.placements.placement import Placement
    from profiler.planning.costs.table import CostTable, PlacementCost
    from profiler.planning.replaying.workload import Workload


@dataclass(frozen=True)
class Choices:
    """The search problems, and the conversion of a complete choice to a scheme."""

    names: tuple[str, ...]  # in the order of the decisions
    problems: tuple[Problem, ...]
    sticky: tuple[bool, ...]  # of each problem
    fixed: frozenset[str]  # components without a choice: they stay on the GPU

    @property
    def candidates(self) -> int:
        """The number of complete choices of all problems."""
        return sum(map(_count, self.problems))

    def scheme(self, found: Found) -> Scheme:
        """Return the scheme of a complete choice."""
        chosen = dict(zip(self.names, found.keys, strict=True))
        successors = {name: key for name, key in chosen.items() if key in chosen}
        tail = next((name for name, key in chosen.items() if key == LAST), None)
        sequence: list[str] = []
        while tail is not None:
            sequence.insert(0, tail)
            tail = next((name for name, key in successors.items() if key == tail), None)
        excluded = frozenset(name for name, key in chosen.items() if key in (EXCLUDED, KEPT))
        made: dict[str, Choice] = dict(zip(self.names, found.labels, strict=True))
        whole = any(key != APART for key in found.keys)  # else there is no end of a call to replace
        return Scheme(
            tuple(sequence),
            excluded | self.fixed,
            self.sticky[found.problem] and whole,
            {name: one.inside for name, one in made.items() if one.inside is not None},
            {name: one.swap for name, one in made.items() if one.swap != COPY},
        )


def choices_of(  # noqa: PLR0913  # tables, objective, and what the plan may use
    workload: Workload,
    cost_table: CostTable,
    stock: Scheme,
    cost_of: Callable[[PlacementCost], int],
    *,
    sticky: bool,
    levers: Collection[str] = (),
    hooks: bool = True,
) -> Choices:
    """Return the search problems of `workload`.

    Args:
        workload: The workload with the components to place.
        cost_table: The tabulated costs of their placements.
        stock: The pipeline's own scheme; the penalty of a choice counts the components that it places differently, and
            of as many those that it pins: page-locked memory is lost to everything else.
        cost_of: Returns the objective's cost of a placement.
        sticky: Whether the plan may replace diffusers' end of a call; if not, no lever can be used.
        levers: Placements that may be used besides sequence and exclusions.
        hooks: Whether components may carry model-offload hooks.
    """
    free = [name for name in cost_table.names if name not in workload.fixed]
    sizes = {part.name: part.allocated_bytes for part in workload.components}
    names = tuple(sorted(free, key=lambda name: -sizes[name]))
    build = _ChoiceBuilder(workload, cost_table, stock, cost_of, names, hooks=hooks)
    problems = [build.problem(TRAVELS, ()), build.resident()] if hooks else [build.resident()]
    kinds = [False] * len(problems)
    if sticky:
        problems.append(build.problem(STAYS, levers))
        kinds.append(True)
    return Choices(names=names, problems=tuple(problems), sticky=tuple(kinds), fixed=workload.fixed)


class _ChoiceBuilder:
    def __init__(
        self,
        workload: Workload,
        cost_table: CostTable,
        stock: Scheme,
        cost_of: Callable[[PlacementCost], int],
        names: tuple[str, ...],
        *,
        hooks: bool,
    ) -> None:
        self._hooks = hooks
        self._costs, self._cost_of, self._names = cost_table, cost_of, names
        self._change = len(names) + 1  # the penalty of a change: above that of pinning everything
        self._components = {part.name: part for part in workload.components}
        self._bare = {c.name for c in workload.components if not c.parameters}
        self._entered = {
            op.event.component for ops in workload.calls for op in ops if op.kind == "enter"
        }
        self._stock = {name: _stock_key(stock, cost_table.names, name) for name in names}
        fixed = [
            cost_table.placement_cost(name, Choice(STAYS))
            for name in cost_table.names
            if name in workload.fixed
        ]
        floating = np.array(
            [moment.floating_bytes for moment in cost_table.moments], dtype=np.int64
        )
        self._base = tuple(sum((cost.load for cost in fixed), floating).tolist())
        self._base_uses = (sum(cost.host.total for cost in fixed),)

    def problem(self, excluded: str, levers: Collection[str]) -> Problem:
        """Return the problem in which something is hooked and excluded components are placed as `excluded`."""
        rule = SequenceRule(self._names, some_excluded=excluded == STAYS and not levers)
        return Problem(
            decisions=tuple(tuple(self._options(name, excluded, levers)) for name in self._names),
            base=self._base,
            base_uses=self._base_uses,
            step=rule.step,
            start=rule.start,
            penalty=self._change if excluded == STAYS else 0,
        )

    def resident(self) -> Problem:
        """Return the problem whose only choice is to exclude everything, which is one change: `pipe.to("cuda")`."""
        rows = [self._option(name, EXCLUDED, Choice(STAYS)) for name in self._names]
        return Problem(
            decisions=tuple((row._replace(penalty=0),) for row in rows),
            base=self._base,
            base_uses=self._base_uses,
            penalty=max((row.penalty for row in rows), default=0),
        )

    def _options(self, name: str, excluded: str, levers: Collection[str]) -> Iterator[Option]:
        component = self._components[name]
        yield self._option(name, EXCLUDED, Choice(excluded))
        if name in self._bare and name in self._entered:
            return  # a hook on a module without parameters raises StopIteration
        for split in placements(component, self._costs, levers, leaving_rest=False):
            yield self._option(name, APART, Choice(SPLIT, COPY, split))
        insides = (None, *placements(component, self._costs, levers, leaving_rest=True))
        for inside in insides[1:]:
            yield self._option(name, KEPT, Choice(excluded, COPY, inside))
        for swap in evictions.options(component, levers) if self._hooks else ():
            for inside in insides:
                yield from self._hooked(name, swap, inside)

    def _hooked(self, name: str, swap: str, inside: Placement | None) -> Iterator[Option]:
        """Yield the options in which the component carries a model-offload hook."""
        if self._sound(name, UNEVICTED):
            yield self._option(name, OUTSIDE, Choice(UNEVICTED, swap, inside))
            if name not in self._bare:
                yield self._option(name, LAST, Choice(UNEVICTED, swap, inside))
        if name in self._bare:
            return
        for other in self._names:
            if other != name and other not in self._bare and self._sound(name, other):
                yield self._option(name, other, Choice(other, swap, inside))

    def _sound(self, name: str, where: str) -> bool:
        return self._costs.placement_cost(name, Choice(where)).sound

    def _option(self, name: str, key: str, choice: Choice) -> Option:
        cost = self._costs.placement_cost(name, choice)
        changed = key != self._stock[name] or choice.inside is not None
        penalty = self._change * changed + (choice.swap == PINNED)
        load = tuple(cost.load.tolist())
        return Option(key, self._cost_of(cost), load, penalty, (cost.host.total,), choice)


def _stock_key(stock: Scheme, names: tuple[str, ...], name: str) -> str:
    if name in stock.excluded:
        return EXCLUDED
    if name not in stock.sequence:
        return OUTSIDE
    where = choices_in(stock, names)[name].where
    return LAST if where == UNEVICTED else where


def _count(problem: Problem) -> int:
    """Return the number of complete choices that the rule allows."""
    counts: Counter[object] = Counter({problem.start: 1})
    for options in problem.decisions:
        keys = Counter(option.key for option in options)
        after: Counter[object] = Counter()
        for state, ways in counts.items():
            for key, number in keys.items():
                following = problem.step(state, key)
                if following is not None:
                    after[following] += ways * number
        counts = after
    return counts.total()
