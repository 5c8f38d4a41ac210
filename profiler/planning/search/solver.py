"""Exact search: choose one option for each decision so that the cost is least and no limit is exceeded.

The engine knows nothing of what it decides; `searching.records` says what a problem and an answer are. It works on
whole numbers throughout. Parts of it, from below:

- `dominance`: options that another one beats in everything are left out.
- `automaton`, `tables`: the rule and the figures as arrays, made once for all searches of a problem.
- `multipliers`, `goals`: weights under which the sum of several columns bounds the goal.
- `trimming`: what cannot be part of a better choice is left out.
- `completions`: the last decisions enumerated, for problems in which bounds exclude little before them.
- `layers`: branch and bound over many partial choices at once.
- `ranking`: one goal after the other, and the runner-up.
- `pareto`: the front, one exact search for each point.
"""

from __future__ import annotations

import time
from itertools import zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING

from profiler.planning.search.goals import BY_COST, BY_PEAK, BY_PENALTY, PEAK, Caps, Goal
from profiler.planning.search.layers import Clock
from profiler.planning.search.pareto import walk
from profiler.planning.search.ranking import Ranking
from profiler.planning.search.records import Found, Front, Option, Outcome, Problem
from profiler.planning.search.tables import COST, PENALTY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from profiler.planning.search.layers import Best

__all__ = ["Found", "Front", "Option", "Outcome", "Problem", "Solver", "front", "search"]


def search(
    problems: Sequence[Problem],
    *,
    limit: int | None = None,
    use_limits: Sequence[int | None] = (),
    wanted: int = 2,
    peak_first: bool = False,
    time_limit_seconds: float | None = None,
) -> Outcome:
    """Return the `wanted` best choices of all problems, least (cost, peak, penalty) first.

    Args:
        problems: Alternatives; the best of all of them is sought.
        limit: The peak may not exceed it.
        use_limits: What the summed uses may not exceed; None for unlimited. A limit of what no option uses is ignored.
        wanted: How many choices to return, fewer where fewer exist.
        peak_first: Rank by (peak, cost, penalty) instead.
        time_limit_seconds: After this the best found so far is returned, with what is proved of it. Reading the
            problems is not interrupted.

    Raises:
        OverflowError: if the figures of a choice may add up to 2^61 or more.
    """
    return Solver(problems).search(
        limit=limit,
        use_limits=use_limits,
        wanted=wanted,
        peak_first=peak_first,
        time_limit_seconds=time_limit_seconds,
    )


def front(
    problems: Sequence[Problem],
    *,
    limit: int | None = None,
    use_limits: Sequence[int | None] = (),
    most: int = 32,
    time_limit_seconds: float | None = None,
) -> Front:
    """Return the choices that no other beats in both peak and cost, lowest peak first.

    Of more than `most` the two ends are kept, and of those between the ones that halve the widest range of peaks,
    again and again.

    Args:
        problems: Alternatives, all of which may give points.
        limit: The peak may not exceed it.
        use_limits: What the summed uses may not exceed; None for unlimited.
        most: How many points to return, at least 2.
        time_limit_seconds: After this the points found so far are returned.

    Raises:
        OverflowError: if the figures of a choice may add up to 2^61 or more.
    """
    return Solver(problems).front(
        limit=limit, use_limits=use_limits, most=most, time_limit_seconds=time_limit_seconds
    )


class Solver:
    """Problems made ready for any number of searches, each of which makes the next ones faster.

    Raises:
        OverflowError: if the figures of a choice may add up to 2^61 or more.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._ranking = Ranking(problems, max(map(_resources, problems), default=0))

    def search(
        self,
        *,
        limit: int | None = None,
        use_limits: Sequence[int | None] = (),
        wanted: int = 2,
        peak_first: bool = False,
        time_limit_seconds: float | None = None,
    ) -> Outcome:
        """Search as the function `search` does."""
        caps, goals = Caps(limit, tuple(use_limits)), BY_PEAK if peak_first else BY_COST
        return self._best(caps, wanted, _end(time_limit_seconds), goals)

    def simplest(
        self,
        cost_limit: int,
        *,
        limit: int | None = None,
        use_limits: Sequence[int | None] = (),
        time_limit_seconds: float | None = None,
    ) -> Outcome:
        """Search for the one choice with the least penalty, then cost, then peak, that costs at most `cost_limit`."""
        caps = Caps(limit, tuple(use_limits), cost_limit)
        return self._best(caps, 1, _end(time_limit_seconds), BY_PENALTY, self._ranking.apart())

    def front(
        self,
        *,
        limit: int | None = None,
        use_limits: Sequence[int | None] = (),
        most: int = 32,
        time_limit_seconds: float | None = None,
    ) -> Front:
        """Search as the function `front` does."""
        end = _end(time_limit_seconds)

        def best(
            limit: int | None, cost_limit: int | None = None, *, peak_first: bool = False
        ) -> Outcome:
            caps = Caps(limit, tuple(use_limits), cost_limit)
            return self._best(caps, 1, end, BY_PEAK if peak_first else BY_COST)

        return walk(best, limit, most)

    def _best(
        self,
        caps: Caps,
        wanted: int,
        end: float | None,
        goals: tuple[Goal, ...],
        ranking: Ranking | None = None,
    ) -> Outcome:
        clock = Clock(end)
        ranked = (ranking or self._ranking).best(caps, wanted, clock, goals)
        found = tuple(map(self._found, ranked.choices))
        reached = [_FIGURES[goals[0]](one) for one in found[:1]]
        gap = 0 if ranked.bound is None else max(reached, default=ranked.bound) - ranked.bound
        return Outcome(
            found=found, complete=ranked.complete, nodes=clock.nodes, bound=ranked.bound, gap=gap
        )

    def _found(self, best: Best) -> Found:
        """Return a choice, its figures added up anew from the options as they were given."""
        problem = self._problems[best.region.problem]
        numbers = zip(best.region.tables.decisions, best.rows, strict=True)
        options = [
            given[int(decision.options[row])]
            for given, (decision, row) in zip(problem.decisions, numbers, strict=True)
        ]
        loads = zip(problem.base, *(option.load for option in options), strict=True)
        uses = zip_longest(problem.base_uses, *(option.uses for option in options), fillvalue=0)
        return Found(
            problem=best.region.problem,
            keys=tuple(option.key for option in options),
            labels=tuple(option.label for option in options),
            cost=sum(option.cost for option in options),
            peak=max(map(sum, loads)),
            penalty=problem.penalty + sum(option.penalty for option in options),
            uses=tuple(map(sum, uses)),
        )


_FIGURES: dict[Goal, Callable[[Found], int]] = {
    COST: attrgetter("cost"),
    PEAK: attrgetter("peak"),
    PENALTY: attrgetter("penalty"),
}


def _end(time_limit_seconds: float | None) -> float | None:
    return None if time_limit_seconds is None else time.monotonic() + time_limit_seconds


def _resources(problem: Problem) -> int:
    uses = [option.uses for options in problem.decisions for option in options]
    return max(map(len, (problem.base_uses, *uses)))
