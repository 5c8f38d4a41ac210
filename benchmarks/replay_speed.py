"""How fast plans are weighed: `evaluate` against `simulate`, on Stable Diffusion 3 with 50 steps and 5 components.

Run: python benchmarks/replay_speed.py [--json]

The search asks for totals a hundred thousand times; the event log is what they must equal. Both run here over the same
random plans of the whole vocabulary, and the totals are compared. Limit: 20,000 evaluations a second.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from profiler.placements.evictions import DROP, PINNED
from profiler.placements.placement import LEVERS, Placement
from profiler.placements.scheme import Scheme
from profiler.planning.costs.link import link_of
from profiler.planning.costs.table import CostTable, evaluate, tabulate
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.workload import workload_of
from profiler.planning.vocabulary import placements
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_without_limit

if TYPE_CHECKING:
    from profiler.planning.replaying.workload import Workload

MODEL, STEPS = "sd3-medium", 50
PLANS = 200
SIMULATED = 10
LIMIT_PER_SECOND = 20_000


def random_plans(workload: Workload, cost_table: CostTable, count: int) -> list[Scheme]:
    """Return sound plans of every kind, the same ones each time."""
    chance = random.Random(0)  # noqa: S311  # no secret
    ways = {
        part.name: list(placements(part, cost_table, LEVERS, leaving_rest=False))
        for part in workload.components
    }
    streams = {
        part.name: list(placements(part, cost_table, LEVERS, leaving_rest=True))
        for part in workload.components
    }
    plans: list[Scheme] = []
    while len(plans) < count:
        sequence, excluded = [], set()
        inside: dict[str, Placement] = {}
        swaps = {}
        for name in chance.sample(workload.names, len(workload.names)):
            if ways[name] and chance.random() < 0.2:
                inside[name] = chance.choice(ways[name])
                continue
            if streams[name] and chance.random() < 0.5:
                inside[name] = chance.choice(streams[name])
            if chance.random() < 0.3:
                excluded.add(name)
            else:
                sequence.append(name)
                swaps[name] = chance.choice([DROP, PINNED])
        plan = Scheme(tuple(sequence), frozenset(excluded), True, inside, swaps)
        if cost_table.sound(plan):
            plans.append(plan)
    return plans


def measure() -> dict[str, Any]:
    """Return how many plans a second each of both weighs, and whether they agree."""
    profile = profile_without_limit(Scenario(model=MODEL, gpu="rtx-4090", steps=STEPS))
    workload = workload_of(profile)
    cost_table = tabulate(workload, link_of(profile))
    plans = random_plans(workload, cost_table, PLANS)
    repeats = 25
    start = time.perf_counter()
    for _ in range(repeats):
        for plan in plans:
            evaluate(cost_table, plan)
    evaluate_per_second = repeats * PLANS / (time.perf_counter() - start)
    start = time.perf_counter()
    logs = [simulate(workload, plan, calls=3) for plan in plans[:SIMULATED]]
    simulate_per_second = SIMULATED / (time.perf_counter() - start)
    differing = 0
    for plan, events in zip(plans, logs, strict=False):
        peak = max(max(event.lead_peak_bytes, event.peak_bytes) for event in events)
        differing += peak != evaluate(cost_table, plan).peak_allocated_bytes
    return {
        "model": MODEL,
        "components": len(workload.names),
        "steps": STEPS,
        "events": len(profile.events),
        "moments": len(cost_table.moments),
        "evaluate_per_second": evaluate_per_second,
        "simulate_per_second": simulate_per_second,
        "ratio": evaluate_per_second / simulate_per_second,
        "differing": differing,
    }


def main() -> None:
    """Print both speeds; fail below the limit, or where they disagree."""
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['model']}, {found['components']} components, {found['steps']} steps: "
            f"evaluate {found['evaluate_per_second']:,.0f} a second, simulate {found['simulate_per_second']:.1f}, "
            f"ratio {found['ratio']:,.0f}; {found['differing']} of {SIMULATED} peaks differ"
        )
    if found["differing"] or found["evaluate_per_second"] < LIMIT_PER_SECOND:
        raise SystemExit(f"below {LIMIT_PER_SECOND:,} a second, or the totals differ")


if __name__ == "__main__":
    main()
