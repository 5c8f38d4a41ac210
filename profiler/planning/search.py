"""Exact search: choose one option for each decision so that the cost is least and no limit is exceeded.

The engine knows nothing of what it decides. `profiler.planning.searching.records` says what a problem and an answer
are.
"""

from __future__ import annotations

import heapq
import time
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.planning.searching.dominance import table_of, undominated
from profiler.planning.searching.pareto import walk
from profiler.planning.searching.records import Amounts, Found, Front, Option, Outcome, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Found", "Front", "Option", "Outcome", "Problem", "front", "search"]


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
        use_limits: What the summed uses may not exceed; None for unlimited.
        wanted: How many choices to return, fewer where fewer exist.
        peak_first: Rank by (peak, cost, penalty) instead.
        time_limit_seconds: After this the best found so far is returned, with what is proved of it.
    """
    ends = None if time_limit_seconds is None else time.monotonic() + time_limit_seconds
    engine = _Engine(problems, _Limits(limit, tuple(use_limits)), ends, peak_first=peak_first)
    found = []
    for choice in engine.best_first():
        found.append(choice)
        if len(found) == wanted:
            break
    return engine.outcome(tuple(found))


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
    """
    ends = None if time_limit_seconds is None else time.monotonic() + time_limit_seconds

    def best(limit: int | None, *, peak_first: bool = False) -> Outcome:
        left = None if ends is None else max(ends - time.monotonic(), 0.0)
        return search(
            problems,
            limit=limit,
            use_limits=use_limits,
            wanted=1,
            peak_first=peak_first,
            time_limit_seconds=left,
        )

    return walk(best, limit, most)


class _Limits(NamedTuple):
    peak: int | None
    uses: tuple[int | None, ...]

    def allow(self, peak: int, uses: Amounts) -> bool:
        if self.peak is not None and peak > self.peak:
            return False
        pairs = zip(uses, self.uses, strict=True)
        return all(most is None or used <= most for used, most in pairs)


class _Node(NamedTuple):
    rank: tuple[int, int, int]
    depth: int  # negative, so that of equals the most complete comes first
    order: int
    problem: int
    state: Any
    options: tuple[Option, ...]
    total: Option


class _Engine:
    def __init__(
        self, problems: Sequence[Problem], limits: _Limits, ends: float | None, *, peak_first: bool
    ) -> None:
        self._problems = problems
        self._limits = limits
        self._ends = ends
        self._peak_first = peak_first
        self._decisions = [_kept(problem, len(limits.uses)) for problem in problems]
        self._rests = [
            _rests(rows, len(problem.base), len(limits.uses))
            for rows, problem in zip(self._decisions, problems, strict=True)
        ]
        self._order = count()
        self._heap: list[_Node] = []
        self._nodes = 0
        self._late = False

    def best_first(self) -> Iterator[Found]:
        """Yield complete choices in the order of their rank, until the time is up."""
        for index, problem in enumerate(self._problems):
            uses = _padded(problem.base_uses, len(self._limits.uses))
            total = Option("", 0, problem.base, problem.penalty, uses)
            self._push(index, problem.start, (), total)
        while self._heap:
            if self._ends is not None and time.monotonic() > self._ends:
                self._late = True
                return
            node = heapq.heappop(self._heap)
            self._nodes += 1
            if -node.depth == len(self._decisions[node.problem]):
                yield Found(
                    problem=node.problem,
                    keys=tuple(option.key for option in node.options),
                    labels=tuple(option.label for option in node.options),
                    cost=node.total.cost,
                    peak=max(node.total.load),
                    penalty=node.total.penalty,
                    uses=node.total.uses,
                )
            else:
                self._open(node)

    def outcome(self, found: tuple[Found, ...]) -> Outcome:
        """Return `found` with its proof."""
        bounds = [node.rank[0] for node in self._heap[:1]]
        bounds += [one.peak if self._peak_first else one.cost for one in found[:1]]
        bound = min(bounds, default=None)
        return Outcome(found=found, complete=not self._late, nodes=self._nodes, bound=bound, gap=0)

    def _open(self, node: _Node) -> None:
        step = self._problems[node.problem].step
        for option in self._decisions[node.problem][-node.depth]:
            state = step(node.state, option.key)
            if state is not None:
                total = _sum(node.total, option)
                self._push(node.problem, state, (*node.options, option), total)

    def _push(self, problem: int, state: Any, options: tuple[Option, ...], total: Option) -> None:
        least = _sum(total, self._rests[problem][len(options)])
        peak = max(least.load)
        if not self._limits.allow(peak, least.uses):
            return
        pair = (peak, least.cost) if self._peak_first else (least.cost, peak)
        rank = (*pair, least.penalty)
        node = _Node(rank, -len(options), next(self._order), problem, state, options, total)
        heapq.heappush(self._heap, node)


def _kept(problem: Problem, resources: int) -> list[list[Option]]:
    kept = []
    for options in problem.decisions:
        rows = undominated([option.key for option in options], table_of(options, resources))
        kept.append(
            [options[row]._replace(uses=_padded(options[row].uses, resources)) for row in rows]
        )
    return kept


def _padded(uses: Amounts, resources: int) -> Amounts:
    return (*uses[:resources], *(0,) * (resources - len(uses)))


def _sum(one: Option, other: Option) -> Option:
    return Option(
        "",
        one.cost + other.cost,
        tuple(map(int.__add__, one.load, other.load)),
        one.penalty + other.penalty,
        tuple(map(int.__add__, one.uses, other.uses)),
    )


def _rests(decisions: Sequence[Sequence[Option]], moments: int, resources: int) -> list[Option]:
    """Return for each number of decisions made what the others take at the least."""
    rest = Option("", 0, (0,) * moments, 0, (0,) * resources)
    rests = [rest]
    for options in reversed(decisions):
        least = Option(
            "",
            min(option.cost for option in options),
            tuple(map(min, zip(*(option.load for option in options), strict=True))),
            min(option.penalty for option in options),
            tuple(map(min, zip(*(option.uses for option in options), strict=True))),
        )
        rest = _sum(rest, least)
        rests.append(rest)
    return rests[::-1]
