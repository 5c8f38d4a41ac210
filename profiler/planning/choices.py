"""Model offload as a search problem: a placement for each component, so that the links form one sequence.

Each component decides its successor in the sequence (`cost` explains why that is all that matters), or to be the
last of the sequence, outside of it, or excluded. Stock and sticky exclusion are two problems; a pipe in which
nothing carries a hook is a third with one choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import perm
from typing import TYPE_CHECKING

from profiler.planning.cost import STAYS, TRAVELS, UNEVICTED, choice
from profiler.planning.placements import Scheme
from profiler.planning.search import Option, Problem
from profiler.planning.sequence_rule import EXCLUDED, LAST, OUTSIDE, SequenceRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.planning.cost import Ride, Rides
    from profiler.planning.workload import Workload


@dataclass(frozen=True)
class Choices:
    """The problems to search, and the way back from a choice to a scheme."""

    names: tuple[str, ...]  # in the order of the decisions
    problems: tuple[Problem, ...]
    sticky: tuple[bool, ...]  # of each problem
    fixed: frozenset[str]  # components that are no decision: they stay on the card
    candidates: int  # complete choices of all problems

    def scheme(self, problem: int, keys: tuple[str, ...]) -> Scheme:
        """Return the scheme that a complete choice stands for."""
        chosen = dict(zip(self.names, keys, strict=True))
        successors = {name: key for name, key in chosen.items() if key in chosen}
        tail = next((name for name, key in chosen.items() if key == LAST), None)
        sequence: list[str] = []
        while tail is not None:
            sequence.insert(0, tail)
            tail = next((name for name, key in successors.items() if key == tail), None)
        excluded = frozenset(name for name, key in chosen.items() if key == EXCLUDED)
        return Scheme(tuple(sequence), excluded | self.fixed, self.sticky[problem])


def choices_of(
    workload: Workload, rides: Rides, stock: Scheme, cost_of: Callable[[Ride], int], *, sticky: bool
) -> Choices:
    """Return the search problems of `workload`.

    Args:
        workload: Whose components are to be placed.
        rides: Their tabulated rides.
        stock: The scheme as it is; the penalty of a choice counts the components it places otherwise.
        cost_of: What a ride costs.
        sticky: Whether sticky exclusion may be used.
    """
    free = [name for name in rides.names if name not in workload.fixed]
    names = tuple(sorted(free, key=lambda name: -max(rides.table[name, STAYS].load)))
    build = _Builder(workload, rides, stock, cost_of, names)
    problems = [build.problem(TRAVELS), build.resident()]
    kinds = [False, False]
    if sticky:
        problems.append(build.problem(STAYS))
        kinds.append(True)
    return Choices(
        names=names,
        problems=tuple(problems),
        sticky=tuple(kinds),
        fixed=workload.fixed,
        candidates=_count(len(names), sticky=sticky),
    )


class _Builder:
    def __init__(
        self,
        workload: Workload,
        rides: Rides,
        stock: Scheme,
        cost_of: Callable[[Ride], int],
        names: tuple[str, ...],
    ) -> None:
        self._rides, self._cost_of, self._names = rides, cost_of, names
        self._bare = {c.name for c in workload.components if not c.parameters}
        self._entered = {
            op.event.component for ops in workload.calls for op in ops if op.kind == "enter"
        }
        self._stock = {name: _stock_key(stock, rides.names, name) for name in names}
        fixed = [rides.table[name, STAYS] for name in rides.names if name in workload.fixed]
        floating = tuple(moment.floating_bytes for moment in rides.moments)
        self._base = tuple(map(sum, zip(floating, *(ride.load for ride in fixed), strict=True)))

    def problem(self, excluded: str) -> Problem:
        """Return the problem in which something is hooked and excluded components ride as `excluded`."""
        rule = SequenceRule(self._names, some_excluded=excluded == STAYS)
        return Problem(
            decisions=tuple(self._options(name, excluded) for name in self._names),
            base=self._base,
            step=rule.step,
            start=rule.start,
            penalty=1 if excluded == STAYS else 0,
        )

    def resident(self) -> Problem:
        """Return the problem whose one choice is to exclude everything."""
        rows = tuple((self._option(name, EXCLUDED, STAYS),) for name in self._names)
        return Problem(decisions=rows, base=self._base)

    def _options(self, name: str, excluded: str) -> tuple[Option, ...]:
        options = [self._option(name, EXCLUDED, excluded)]
        if name in self._bare and name in self._entered:
            return tuple(options)  # a hook on a module without parameters raises StopIteration
        if self._rides.table[name, UNEVICTED].sound:
            options.append(self._option(name, OUTSIDE, UNEVICTED))
        if name in self._bare:
            return tuple(options)
        if self._rides.table[name, UNEVICTED].sound:
            options.append(self._option(name, LAST, UNEVICTED))
        others = (other for other in self._names if other != name and other not in self._bare)
        options += [
            self._option(name, other, other)
            for other in others
            if self._rides.table[name, other].sound
        ]
        return tuple(options)

    def _option(self, name: str, key: str, ride_key: str) -> Option:
        ride = self._rides.table[name, ride_key]
        return Option(key, self._cost_of(ride), ride.load, int(key != self._stock[name]))


def _stock_key(stock: Scheme, names: tuple[str, ...], name: str) -> str:
    if name in stock.excluded:
        return EXCLUDED
    if name not in stock.sequence:
        return OUTSIDE
    key = choice(stock, names, name)
    return LAST if key == UNEVICTED else key


def _count(count: int, *, sticky: bool) -> int:
    """Return the number of schemes of `count` components: ordered sequences, and for the others outside or excluded."""
    both: int = sum(perm(count, size) * 2 ** (count - size) for size in range(count + 1))
    only_stock: int = sum(perm(count, size) for size in range(count + 1))
    # Excluding everything is no sticky plan: where nothing carries a hook, stock diffusers moves nothing either.
    return both + (both - only_stock - 1 if sticky else 0)
