"""The engine's best choice beside that of OR-Tools' CP-SAT, on problems too large for trying everything.

`--search-cases 100` tries as many, of full size: 8 components, up to 60 resident blocks each.
"""

from __future__ import annotations

import math
import random
import statistics
import time

import planning_worlds
import pytest

from profiler.planning.search.solver import Solver
from profiler.planning.session import Session
from profiler.planning.wish import wish_of

SMALL = {"components": 4, "most_blocks": 6}
LIMITS = (
    *((0.0, None), (0.02, None), (0.1, None), (0.3, None), (0.7, None)),
    *((0.3, 0.7), (0.5, 0.7), (0.7, 0.7), (0.5, 0.3), (0.7, 0.3), (None, 0.3)),
)
"""Of the GPU, from the smallest peak to that of the least cost; of host memory, as a part of all weights."""
EFFORT = 20.0
"""What CP-SAT may spend on a goal, in its own deterministic unit: about seconds of one core."""


def limits(chance, world, solver):
    """Return a limit between the smallest peak and that of the least cost, and one of host memory."""
    (lightest,) = solver.search(wanted=1, peak_first=True).found
    (cheapest,) = solver.search(wanted=1).found
    part, ram = chance.choice(LIMITS)
    span = cheapest.peak - lightest.peak
    limit = None if part is None else lightest.peak + int(part * span)
    weights = sum(each.bytes for each in world.parts)
    return limit, (None if ram is None else int(ram * weights),)


def both(problems, limit, use_limits):
    """Return what the engine reaches of each goal, between what CP-SAT says it is, and the seconds of both."""
    pytest.importorskip("ortools", reason="OR-Tools is not installed: pip install ortools")
    import cp_sat

    began = time.perf_counter()
    found = Solver(problems).search(limit=limit, use_limits=use_limits, wanted=1).found
    between = time.perf_counter()
    proved = cp_sat.least(problems, limit, use_limits, EFFORT)
    seconds = (between - began, time.perf_counter() - between)
    return [(one.cost, one.peak, one.penalty) for one in found], proved, seconds


def of_world(seed, **sizes):
    """Return the problems of a random world, and limits."""
    world = planning_worlds.world(seed, **sizes)
    problems = world.problems()
    return problems, *limits(random.Random(seed), world, Solver(problems))


def agree(found, proved):
    """Whether what is found lies between CP-SAT's bounds of each goal, and nothing only if CP-SAT found nothing."""
    if not found:
        return all(high == math.inf for _, high in proved)
    pairs = zip(*found, proved, strict=False)
    return bool(proved) and all(low <= value <= high for value, (low, high) in pairs)


@pytest.mark.parametrize("seed", range(5))
def test_small_worlds_have_the_optimum_that_cp_sat_proves(seed):
    found, proved, _ = both(*of_world(seed, **SMALL))
    assert agree(found, proved)
    assert all(low == high for low, high in proved)


@pytest.fixture
def cases(request):
    """How many searches of full size are compared."""
    count = request.config.getoption("--search-cases")
    if not count:
        pytest.skip("takes seconds a case: --search-cases says how many")
    return count


def test_worlds_of_full_size_have_the_optimum_that_cp_sat_proves(cases):
    closed, seconds = 0, []
    for seed in range(cases):
        found, proved, taken = both(*of_world(seed))
        assert agree(found, proved), seed
        closed += all(low == high for low, high in proved)
        seconds.append(taken)
        print(seed, *found, "engine {:.2f} s, CP-SAT {:.2f} s".format(*taken), flush=True)
    ours, theirs = map(statistics.median, zip(*seconds, strict=True))
    print(f"CP-SAT closes {closed} of {cases}; medians: engine {ours:.2f} s, CP-SAT {theirs:.2f} s")
    assert closed >= cases * 3 // 4


@pytest.mark.usefixtures("cases")
@pytest.mark.parametrize(("model", "budget"), [("sdxl-base", "6GiB"), ("flux1-dev", "8GiB")])
def test_real_models_have_the_optimum_that_cp_sat_proves(model, budget):
    from profiler import VirtualGPU, load_pipeline, profile_pipeline

    with VirtualGPU("rtx-4090"):
        profile = profile_pipeline(load_pipeline(model))
    session = Session(profile, wish := wish_of(budget))
    limit = session.peak_limit(wish.budget_bytes)
    found, proved, taken = both(session.choices.problems, limit, session.use_limits)
    assert found
    assert agree(found, proved)
    print(model, *found, "engine {:.2f} s, CP-SAT {:.2f} s".format(*taken))
