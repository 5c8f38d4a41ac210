"""Exact search: choose one option for each decision so that the cost is least and no load exceeds the limit.

The engine knows nothing of what it decides. Options have a cost, a load at each moment and a penalty; all three add
up over the decisions; the highest of the summed loads is the peak. A caller's rule says which combinations are
allowed.

Best-first branch and bound: partial choices wait in a heap by a lower bound of (cost, peak, penalty) of every
completion, so the first complete choice that leaves the heap is the best, and what waits there proves it. Bounds:
the sum of the least costs, of the least penalties, and moment by moment of the least loads of the decisions still
open.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Loads = tuple[int, ...]


class Option(NamedTuple):
    """One way to decide."""

    key: str
    cost: int
    load: Loads
    penalty: int = 0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Decisions in the order in which they are made."""

    decisions: tuple[tuple[Option, ...], ...]
    base: Loads  # load that no decision changes
    allowed: Callable[
        [tuple[str, ...]], bool
    ]  # of the keys chosen so far; must not forbid what could become allowed
    penalty: int = 0  # of every choice of this problem


@dataclass(frozen=True, kw_only=True)
class Found:
    """One complete choice."""

    problem: int  # index of the problem it solves
    keys: tuple[str, ...]
    cost: int
    peak: int
    penalty: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best choices, best first, and the proof: no other choice has less than `bound` of what ranks first."""

    found: tuple[Found, ...]
    nodes: int  # partial choices that were opened
    bound: (
        int | None
    )  # least cost (peak, where it ranks first) of what was left unexplored; None where nothing was
    gap: int  # that of the best minus the bound, where positive


class _Node(NamedTuple):
    rank: tuple[int, int, int]
    depth: int  # negative, so that of equals the most complete comes first
    order: int
    problem: int
    keys: tuple[str, ...]
    cost: int
    load: Loads
    penalty: int


def search(
    problems: Sequence[Problem],
    *,
    limit: int | None = None,
    wanted: int = 2,
    peak_first: bool = False,
) -> Outcome:
    """Return the `wanted` best choices of all problems, least (cost, peak, penalty) first.

    Args:
        problems: Alternatives; the best of all of them is sought.
        limit: The peak may not exceed it.
        wanted: How many choices to return, fewer where fewer exist.
        peak_first: Rank by (peak, cost, penalty) instead.
    """
    engine = _Engine(problems, limit, peak_first=peak_first)
    found = []
    for choice in engine.best_first():
        found.append(choice)
        if len(found) == wanted:
            break
    return engine.outcome(tuple(found))


class _Engine:
    def __init__(self, problems: Sequence[Problem], limit: int | None, *, peak_first: bool) -> None:
        self._problems = problems
        self._rests = [_rests(problem) for problem in problems]
        self._limit = limit
        self._peak_first = peak_first
        self._order = count()
        self._heap: list[_Node] = []
        self._nodes = 0

    def best_first(self) -> Iterator[Found]:
        """Yield complete choices in the order of their rank."""
        for index, problem in enumerate(self._problems):
            self._push(index, (), 0, problem.base, problem.penalty)
        while self._heap:
            node = heapq.heappop(self._heap)
            self._nodes += 1
            if -node.depth == len(self._problems[node.problem].decisions):
                yield Found(
                    problem=node.problem,
                    keys=node.keys,
                    cost=node.cost,
                    peak=max(node.load),
                    penalty=node.penalty,
                )
            else:
                self._open(node)

    def outcome(self, found: tuple[Found, ...]) -> Outcome:
        """Return `found` with its proof."""
        bound = self._heap[0].rank[0] if self._heap else None
        gap = 0
        if found and bound is not None:
            best = found[0].peak if self._peak_first else found[0].cost
            gap = max(best - bound, 0)
        return Outcome(found=found, nodes=self._nodes, bound=bound, gap=gap)

    def _open(self, node: _Node) -> None:
        problem = self._problems[node.problem]
        for option in problem.decisions[-node.depth]:
            keys = (*node.keys, option.key)
            if problem.allowed(keys):
                load = tuple(map(int.__add__, node.load, option.load))
                self._push(
                    node.problem, keys, node.cost + option.cost, load, node.penalty + option.penalty
                )

    def _push(
        self, problem: int, keys: tuple[str, ...], cost: int, load: Loads, penalty: int
    ) -> None:
        rest = self._rests[problem][len(keys)]
        peak = max(map(int.__add__, load, rest.load))
        if self._limit is not None and peak > self._limit:
            return
        bound = cost + rest.cost
        pair = (peak, bound) if self._peak_first else (bound, peak)
        rank = (*pair, penalty + rest.penalty)
        node = _Node(rank, -len(keys), next(self._order), problem, keys, cost, load, penalty)
        heapq.heappush(self._heap, node)


def _rests(problem: Problem) -> list[Option]:
    """Return for each number of decisions made what the others take at the least."""
    rest = Option("", 0, (0,) * len(problem.base), 0)
    rests = [rest]
    for options in reversed(problem.decisions):
        least = [min(column) for column in zip(*(option.load for option in options), strict=True)]
        rest = Option(
            "",
            rest.cost + min(option.cost for option in options),
            tuple(map(int.__add__, rest.load, least)),
            rest.penalty + min(option.penalty for option in options),
        )
        rests.append(rest)
    return rests[::-1]
