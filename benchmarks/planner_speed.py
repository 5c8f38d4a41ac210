"""How long the exact search takes over the full vocabulary: 8 components, up to 60 resident blocks each.

Usage: python benchmarks/planner_speed.py [--json] [--seeds N]

Random worlds (`planning_worlds.py`) are searched for the best choice and the runner-up, from the smallest peak that any
choice reaches to no limit at all, with and without a limit on host memory. Seconds are those of the processor and
cover everything, the making of tables included; the slowest search decides, and the limit is 1 s. A search that takes
longer than 30 s is stopped and its gap printed.

Beside it, for two of the worlds, a plain branch and bound whose bound is the sum of what each open component takes at
the least: how many of the searches it finishes in 10 s each, and how many times as long those take.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from planning_worlds import World, world

from profiler.planning.search.solver import Solver, search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.planning.search.solver import Problem

SEEDS = 8
PLAIN_SEEDS, PLAIN_SECONDS = 2, 10.0
RANGE = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, None)
"""Limits, from the smallest peak to that of the least cost; None for no limit."""
RAM = (None, 0.7, 0.3)
"""Limits of host memory, as parts of all weights."""
STOP_SECONDS = 30.0
MOST_SECONDS = 1.0


def cases(made: World, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    """Yield the limits to search under, and what they are called."""
    solver = Solver(problems)
    (lightest,) = solver.search(wanted=1, peak_first=True).found
    (cheapest,) = solver.search(wanted=1).found
    weights = sum(part.bytes for part in made.parts)
    for part in RANGE:
        span = cheapest.peak - lightest.peak
        limit = None if part is None else lightest.peak + int(part * span)
        for ram in RAM:
            use_limit = None if ram is None else int(ram * weights)
            yield {"range": part, "ram": ram, "limit": limit, "use_limits": (use_limit,)}


def searched(problems: list[Problem], case: dict[str, Any]) -> dict[str, Any]:
    """Return what one search took and found."""
    began = time.process_time()
    outcome = search(
        problems,
        limit=case["limit"],
        use_limits=case["use_limits"],
        time_limit_seconds=STOP_SECONDS,
    )
    return {
        "seconds": time.process_time() - began,
        "nodes": outcome.nodes,
        "found": len(outcome.found),
        "gap": outcome.gap,
        "complete": outcome.complete,
        "cost": outcome.found[0].cost if outcome.found else None,
    }


def plain(problems: list[Problem], case: dict[str, Any]) -> dict[str, Any]:
    """Search best first, with the sum of the least of each open decision as the bound, for the least cost alone."""
    began = time.process_time()
    order, nodes, best = count(), 0, None
    heap: list[Any] = []
    for index, problem in enumerate(problems):
        start = (0, *(0,) * len(case["use_limits"]), *problem.base)
        heap.append((0, next(order), index, 0, problem.start, start))
    rests = [_rests(problem) for problem in problems]
    caps = (None, *case["use_limits"])
    while heap and time.process_time() - began < PLAIN_SECONDS:
        cost, _, index, depth, state, sums = heapq.heappop(heap)
        nodes += 1
        problem = problems[index]
        if depth == len(problem.decisions):
            best = cost
            break
        for option in problem.decisions[depth]:
            after = problem.step(state, option.key)
            if after is None:
                continue
            row = (option.cost, *option.uses, *option.load)
            total = tuple(map(int.__add__, sums, row))
            least = tuple(map(int.__add__, total, rests[index][depth + 1]))
            if _kept(least, caps, case["limit"]):
                heapq.heappush(heap, (least[0], next(order), index, depth + 1, after, total))
    seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "nodes": nodes,
        "cost": best,
        "complete": best is not None or not heap,
    }


def _kept(least: tuple[int, ...], caps: tuple[int | None, ...], limit: int | None) -> bool:
    uses = zip(least, caps, strict=False)
    if any(cap is not None and used > cap for used, cap in uses):
        return False
    return limit is None or max(least[len(caps) :]) <= limit


def _rests(problem: Problem) -> list[tuple[int, ...]]:
    rows = [
        [(option.cost, *option.uses, *option.load) for option in options]
        for options in problem.decisions
    ]
    rest = (0,) * len(rows[0][0])
    rests = [rest]
    for options in reversed(rows):
        least = map(min, zip(*options, strict=True))
        rest = tuple(map(int.__add__, rest, least))
        rests.append(rest)
    return rests[::-1]


def full_size(seeds: int) -> list[dict[str, Any]]:
    """Search the worlds of full size."""
    figures = []
    for seed in range(seeds):
        made = world(seed)
        problems = made.problems()
        options = max(len(row) for problem in problems for row in problem.decisions)
        facts = {"seed": seed, "moments": len(made.moments), "most_options": options}
        for case in cases(made, problems):
            named = {name: case[name] for name in ("range", "ram", "limit")}
            figures.append(facts | named | searched(problems, case))
    return figures


def side_by_side(searches: list[dict[str, Any]]) -> dict[str, Any]:
    """Search the first worlds without a limit of host memory plainly, and compare."""
    pairs = []
    compared = [one for one in searches if one["seed"] < PLAIN_SEEDS and one["ram"] is None]
    for one in compared:
        made = world(one["seed"])
        problems = made.problems()
        theirs = plain(problems, {"limit": one["limit"], "use_limits": (None,)})
        if theirs["complete"]:
            assert theirs["cost"] == one["cost"], one
            pairs.append((one["seconds"], theirs["seconds"]))
    ratios = [theirs / ours for ours, theirs in pairs]
    return {
        "searches": len(compared),
        "seconds": sum(one["seconds"] for one in compared),
        "plain_finishes": len(pairs),
        "plain_times_as_long": statistics.median(ratios) if ratios else None,
    }


def main() -> None:
    """Print the figures, and fail where the limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many worlds")
    options = parser.parse_args()
    searches = full_size(options.seeds)
    slowest = max(searches, key=lambda one: one["seconds"])
    summary = {
        "searches": len(searches),
        "proved": sum(one["complete"] for one in searches),
        "median_seconds": statistics.median(one["seconds"] for one in searches),
        "slowest": slowest,
        "over_the_limit": sum(one["seconds"] > MOST_SECONDS for one in searches),
        "side_by_side": side_by_side(searches),
    }
    if options.json:
        print(json.dumps(summary | {"each": searches}, indent=1))
    else:
        _print(searches, summary)
    if summary["over_the_limit"]:
        raise SystemExit(f"over {MOST_SECONDS} s: {summary['over_the_limit']} searches")


def _print(searches: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    print("seed moments options  range   RAM  seconds    nodes  found  gap")
    for one in searches:
        limits = ["none" if one[name] is None else f"{one[name]:.2f}" for name in ("range", "ram")]
        print(
            f"{one['seed']:4} {one['moments']:7} {one['most_options']:7} {limits[0]:>6} {limits[1]:>5}"
            f" {one['seconds']:8.2f} {one['nodes']:8} {one['found']:6}  {one['gap']}"
        )
    print(
        f"median {summary['median_seconds']:.2f} s, slowest {summary['slowest']['seconds']:.2f} s;"
        f" {summary['over_the_limit']} of {summary['searches']} over {MOST_SECONDS} s,"
        f" {summary['proved']} proved"
    )
    beside = summary["side_by_side"]
    print(
        f"plain bounds finish {beside['plain_finishes']} of {beside['searches']} in {PLAIN_SECONDS} s each,"
        f" ours take {beside['seconds']:.1f} s for all; those finished take"
        f" {beside['plain_times_as_long']} times as long"
    )


if __name__ == "__main__":
    main()
