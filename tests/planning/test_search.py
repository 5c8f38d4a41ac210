"""The search engine, on problems that are about nothing."""

from __future__ import annotations

import random
from bisect import bisect
from itertools import product

import planning_worlds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.planning.search.completions import completions_of
from profiler.planning.search.goals import PEAK, Caps
from profiler.planning.search.layers import Clock, Descent, Region
from profiler.planning.search.sheet import Sheet
from profiler.planning.search.solver import Found, Option, Problem, Solver, front, search
from profiler.planning.search.tables import COST, PENALTY, tables_of


def two_decisions(**changes):
    """Cheap choices are heavy: (a, c) costs 0 at peak 9, (b, d) costs 7 at peak 3."""
    decisions = (
        (Option("a", 0, (4, 0)), Option("b", 3, (1, 1))),
        (Option("c", 0, (5, 1)), Option("d", 4, (2, 1))),
    )
    return Problem(**({"decisions": decisions, "base": (0, 0)} | changes))


def test_without_a_limit_the_cheapest_choice_wins():
    outcome = search([two_decisions()])
    assert outcome.found == (
        Found(problem=0, keys=("a", "c"), labels=(None, None), cost=0, peak=9, penalty=0),
        Found(problem=0, keys=("b", "c"), labels=(None, None), cost=3, peak=6, penalty=0),
    )
    assert outcome.gap == 0


def test_the_limit_excludes_heavy_choices():
    # (b, c) peaks at 1 + 5 = 6, (a, d) at 4 + 2 = 6, (b, d) at 3.
    outcome = search([two_decisions()], limit=6)
    assert [(found.keys, found.cost) for found in outcome.found] == [
        (("b", "c"), 3),
        (("a", "d"), 4),
    ]


def test_nothing_is_found_below_the_smallest_peak():
    outcome = search([two_decisions()], limit=2)
    assert (outcome.found, outcome.bound, outcome.complete) == ((), None, True)


def test_peak_first_finds_the_lightest_choice():
    (found,) = search([two_decisions()], wanted=1, peak_first=True).found
    assert (found.keys, found.peak) == (("b", "d"), 3)


def test_equal_costs_are_decided_by_peak_then_by_penalty():
    rows = ((Option("x", 1, (3,)), Option("y", 1, (2,), 5), Option("z", 1, (2,), 4)),)
    problem = Problem(decisions=rows, base=(0,))
    assert [found.keys for found in search([problem], wanted=3).found] == [("z",), ("y",), ("x",)]


def test_the_best_of_several_problems_is_found_and_named():
    dearer = two_decisions(penalty=1)
    lighter = two_decisions(base=(-1, 0))
    assert [found.problem for found in search([dearer, lighter], wanted=2).found] == [1, 0]


def test_uses_are_limited_each():
    rows = ((Option("x", 0, (0,), uses=(9, 1)), Option("y", 5, (0,), uses=(2, 2))),) * 2
    problem = Problem(decisions=rows, base=(0,), base_uses=(1,))
    # (x, x) uses 19, (x, y) and (y, x) 12, (y, y) 5 of the first; 2, 3, 4 of the second.
    outcomes = [search([problem], use_limits=limits) for limits in ((18,), (18, 2), (None, 2))]
    assert [[one.cost for one in outcome.found] for outcome in outcomes] == [[5, 5], [], [0]]
    assert outcomes[0].found[0].uses == (12, 3)


def test_limit_of_what_nothing_uses_is_ignored():
    assert search([two_decisions()], use_limits=(None, 5)).found == search([two_decisions()]).found


def test_without_decisions_there_is_one_choice_and_without_options_none():
    (found,) = search([Problem(decisions=(), base=(2, 3), penalty=1)]).found
    assert (found.keys, found.cost, found.peak, found.penalty) == ((), 0, 3, 1)
    assert search([Problem(decisions=((),), base=(0,))]).found == ()


def test_where_there_is_nothing_to_decide_that_is_found_too():
    problem = Problem(decisions=((Option("x", 0, (0,)),),) * 3, base=(0,))
    for peak_first in (False, True):
        (found,) = search([problem], peak_first=peak_first).found
        assert (found.keys, found.cost, found.peak) == (("x", "x", "x"), 0, 0)
    assert len(front([problem]).points) == 1


def test_labels_come_back():
    rows = ((Option("x", 1, (0,), label="dear"), Option("x", 0, (1,), label=("cheap", 1))),)
    found = search([Problem(decisions=rows, base=(0,))]).found
    assert [one.labels for one in found] == [(("cheap", 1),), ("dear",)]


def test_runner_up_is_no_dominated_variant_of_the_best():
    rows = (
        (Option("x", 0, (1,)), Option("x", 1, (1,), label="worse"), Option("y", 2, (1,))),
        (Option("z", 0, (0,)),),
    )
    found = search([Problem(decisions=rows, base=(0,))], wanted=3).found
    assert [one.keys for one in found] == [("x", "z"), ("y", "z")]


def test_without_time_nothing_is_claimed():
    for peak_first, best in ((False, 0), (True, 3)):
        outcome = search([two_decisions()], peak_first=peak_first, time_limit_seconds=0)
        assert not outcome.complete
        assert outcome.bound <= best
    assert not front([two_decisions()], time_limit_seconds=0).complete


KEYS = "abc"

OPTIONS = st.lists(
    st.builds(
        Option,
        key=st.sampled_from(KEYS),
        cost=st.integers(0, 6),
        load=st.tuples(*[st.integers(0, 5)] * 3),
        penalty=st.integers(0, 2),
        uses=st.tuples(*[st.integers(0, 3)] * 2),
        label=st.none(),
    ),
    min_size=1,
    max_size=5,
).map(lambda row: tuple(one._replace(label=index) for index, one in enumerate(row)))


@st.composite
def problems(draw, most=4):
    """Any problem whose rule is a set of forbidden neighbours, told by the last key alone or by all of them."""
    forbidden = draw(st.sets(st.tuples(*[st.sampled_from(KEYS)] * 2), max_size=4))
    merged = draw(st.booleans())

    def step(state, key):
        if state and (state[-1], key) in forbidden:
            return None
        return (key,) if merged else (*state, key)

    return Problem(
        decisions=tuple(draw(st.lists(OPTIONS, min_size=1, max_size=most))),
        base=draw(st.tuples(*[st.integers(-1, 3)] * 3)),
        base_uses=draw(st.tuples(*[st.integers(0, 1)] * 2)),
        penalty=draw(st.integers(0, 1)),
        step=step,
    )


WORLDS = st.lists(problems(), min_size=1, max_size=2)
LIMITS = st.none() | st.integers(0, 15)
USE_LIMITS = st.tuples(*[st.none() | st.integers(0, 8)] * 2)


@settings(max_examples=100, deadline=None)
@given(WORLDS, LIMITS, USE_LIMITS, st.booleans(), st.integers(1, 4))
def test_the_answer_is_that_of_trying_everything(world, limit, use_limits, peak_first, wanted):
    outcome = search(
        world, limit=limit, use_limits=use_limits, wanted=wanted, peak_first=peak_first
    )
    ranks = sorted(rank(one, peak_first) for one in every_choice(world, limit, use_limits))
    assert [rank(one, peak_first) for one in outcome.found] == ranks[:wanted]
    assert (outcome.complete, outcome.gap) == (True, 0)
    assert outcome.bound == (ranks[0][0] if ranks else None)
    assert len({(one.problem, one.labels) for one in outcome.found}) == len(outcome.found)
    for one in outcome.found:
        assert one in every_choice(world, limit, use_limits)


@settings(max_examples=100, deadline=None)
@given(WORLDS, LIMITS, USE_LIMITS, st.integers(0, 8))
def test_the_simplest_choice_up_to_a_cost_is_that_of_trying_everything(
    world, limit, use_limits, cost_limit
):
    outcome = Solver(world).simplest(cost_limit, limit=limit, use_limits=use_limits)
    ranks = sorted(
        (one.penalty, one.cost, one.peak)
        for one in every_choice(world, limit, use_limits)
        if one.cost <= cost_limit
    )
    assert [(one.penalty, one.cost, one.peak) for one in outcome.found] == ranks[:1]
    assert (outcome.complete, outcome.gap) == (True, 0)
    assert outcome.bound == (ranks[0][0] if ranks else None)


@settings(max_examples=100, deadline=None)
@given(WORLDS, LIMITS, USE_LIMITS, st.booleans(), st.sampled_from((0, 3, 1000)))
def test_regions_that_are_not_done_quickly_are_searched_to_the_same_end(
    world, limit, use_limits, peak_first, most
):
    """No partial choice is granted before a region is trimmed, and up to `most` ways to complete one are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiler.planning.search.ranking._BEAM", 2)
        patch.setattr("profiler.planning.search.ranking._NODES", 0)
        patch.setattr("profiler.planning.search.ranking._NODES_LEFT", most % 2)
        patch.setattr("profiler.planning.search.completions._MOST", most)
        patch.setattr("profiler.planning.search.completions._PARTS", 2)
        outcome = search(world, limit=limit, use_limits=use_limits, wanted=3, peak_first=peak_first)
    ranks = sorted(rank(one, peak_first) for one in every_choice(world, limit, use_limits))
    assert [rank(one, peak_first) for one in outcome.found] == ranks[:3]
    assert outcome.complete


GOALS = {PEAK: "peak", COST: "cost", PENALTY: "penalty"}


def least_with_completions(problem, limit, use_limits, goal, most):
    """Return what the best choice reaches of a goal if up to `most` completions are enumerated."""
    tables = tables_of(problem, len(use_limits))
    if tables is None:
        return None
    sheet = Sheet(tables, Caps(limit, use_limits), goal, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiler.planning.search.completions._MOST", most)
        patch.setattr("profiler.planning.search.completions._PARTS", 2)
        ends = completions_of(sheet, sheet.cap)
    region = Region(0, tables, (None,) * len(tables.decisions))
    descent = Descent(region, sheet, sheet.cap, Clock(None), ends)
    descent.run()
    return descent.best and descent.best.value


@settings(max_examples=60, deadline=None)
@given(problems(), LIMITS, USE_LIMITS, st.sampled_from(tuple(GOALS)), st.integers(3, 300))
def test_the_best_completion_is_found_under_any_rule(problem, limit, use_limits, goal, most):
    every = every_choice([problem], limit, use_limits)
    least = min((getattr(one, GOALS[goal]) for one in every), default=None)
    assert least_with_completions(problem, limit, use_limits, goal, most) == least


@pytest.mark.parametrize("seed", range(3))
def test_the_best_completion_is_found_among_many(seed):
    chance = random.Random(seed)

    def option():
        figures = [chance.randint(0, 99) for _ in range(6)]
        return Option("x", figures[0], tuple(figures[3:]), figures[1], (figures[2],))

    rows = [tuple(option() for _ in range(7)) for _ in range(4)]
    problem = Problem(decisions=tuple(rows), base=(0, 5, 9), base_uses=(0,))
    for limit, use_limit in product((170, 200, 250, None), (120, 160, None)):
        every = every_choice([problem], limit, (use_limit,))
        for goal, name in GOALS.items():
            least = min((getattr(one, name) for one in every), default=None)
            assert least_with_completions(problem, limit, (use_limit,), goal, 400) == least


@pytest.mark.parametrize("seed", range(3))
def test_the_least_peak_of_many_choices_that_cost_nothing_is_a_sum_of_subsets(seed):
    """What is not held is used, and the use is limited: the least peak leaves as little of the limit as can be."""
    chance = random.Random(seed)
    sizes = [chance.randint(10**6, 10**7) for _ in range(7)]
    decisions = tuple(
        tuple(Option("x", 0, (size * kept,), uses=(size * (24 - kept),)) for kept in range(25))
        for size in sizes
    )
    problem = Problem(decisions=decisions, base=(0,), base_uses=(0,))
    limit = chance.randint(9, 16) * sum(sizes) + chance.randint(0, 10**6)
    outcome = search([problem], use_limits=(limit,), wanted=1)
    (found,) = outcome.found
    halves = [
        sorted({sum(map(int.__mul__, part, row)) for row in product(range(25), repeat=len(part))})
        for part in (sizes[:3], sizes[3:])
    ]
    used = max(
        one + halves[1][bisect(halves[1], limit - one) - 1] for one in halves[0] if one <= limit
    )
    assert found.peak == 24 * sum(sizes) - used
    assert outcome.nodes < 2_000_000


def test_limits_between_multiples_of_a_block_are_as_good_as_the_lower_multiple():
    rows = tuple((Option("x", 0, (512,)), Option("y", 1, (0,))) for _ in range(3))
    problem = Problem(decisions=rows, base=(100,))
    for limit, cost in ((99, None), (100, 3), (611, 3), (612, 2), (1123, 2), (1124, 1)):
        found = search([problem], limit=limit, wanted=1).found
        assert [one.cost for one in found] == ([] if cost is None else [cost])


@settings(max_examples=60, deadline=None)
@given(WORLDS, LIMITS, USE_LIMITS, st.integers(2, 5))
def test_the_front_is_that_of_trying_everything(world, limit, use_limits, most):
    best = {}
    for one in sorted(every_choice(world, limit, use_limits), key=lambda one: rank(one, True)):
        if not best or one.cost < min(best.values()):
            best[one.peak] = one.cost
    found = front(world, limit=limit, use_limits=use_limits, most=most)
    points = [(one.peak, one.cost) for one in found.points]
    assert set(points) <= set(best.items())
    assert points == sorted(points)
    assert points[:1] + points[-1:] == (list(best.items())[:1] + list(best.items())[-1:])
    assert len(points) == min(len(best), most)
    assert len(best) <= most if found.whole else len(best) >= most
    assert found.complete


@pytest.mark.parametrize("seed", range(4))
def test_small_pipelines_are_planned_as_by_trying_everything(seed):
    """Problems as planning makes them: one sequence, resident blocks, a limit of host memory."""
    world = planning_worlds.world(seed, components=3, most_blocks=2).problems()
    every = every_choice(world, None, (None,))
    peaks = sorted({one.peak for one in every})
    uses = sorted({one.uses[0] for one in every})
    solver = Solver(world)
    for limit in (None, *peaks[:: len(peaks) // 4]):
        for use_limit in (None, *uses[:: len(uses) // 3]):
            kept = [one for one in every if limit is None or one.peak <= limit]
            kept = [one for one in kept if use_limit is None or one.uses[0] <= use_limit]
            for peak_first in (False, True):
                found = solver.search(
                    limit=limit, use_limits=(use_limit,), peak_first=peak_first
                ).found
                ranks = sorted(rank(one, peak_first) for one in kept)
                assert [rank(one, peak_first) for one in found] == ranks[:2]


@pytest.mark.parametrize("seed", range(3))
def test_full_vocabulary_agrees_with_a_table_over_all_loads(seed):
    """8 decisions of 61 resident blocks and 40 others, one moment: dynamic programming over the load does it too."""
    chance = random.Random(seed)
    decisions = []
    for _ in range(8):
        size, price = chance.randint(1, 6), chance.randint(1, 50)
        row = [Option("blocks", price * (60 - kept), (size * kept,)) for kept in range(61)]
        row += [
            Option(chance.choice(KEYS), chance.randint(0, 4000), (chance.randint(0, 300),))
            for _ in range(40)
        ]
        decisions.append(tuple(row))
    solver = Solver([Problem(decisions=tuple(decisions), base=(0,))])
    least = {0: 0}  # by load
    for row in decisions:
        after = {}
        for load, cost in least.items():
            for option in row:
                total = load + option.load[0]
                after[total] = min(after.get(total, cost + option.cost), cost + option.cost)
        least = after
    for limit in (40, 150, 400, 900, 2000):
        costs = [(cost, load) for load, cost in least.items() if load <= limit]
        outcome = solver.search(limit=limit, wanted=1)
        (found,) = outcome.found
        assert ((found.cost, found.peak), outcome.gap) == (min(costs), 0)


class Ticks:
    """A clock that goes on by a second each time it is read."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize("peak_first", [False, True])
def test_an_interrupted_search_tells_what_it_knows(monkeypatch, peak_first):
    problems = planning_worlds.world(3, components=4, most_blocks=12).problems()
    lightest = Solver(problems).search(wanted=1, peak_first=True).found[0]
    limit = lightest.peak + lightest.peak // 10
    (best,) = Solver(problems).search(limit=limit, wanted=1, peak_first=peak_first).found
    truth = best.peak if peak_first else best.cost
    empty = stopped = 0
    for seconds in (*range(1, 20), 40, 10_000):
        monkeypatch.setattr("profiler.planning.search.layers.time", ticks := Ticks())
        monkeypatch.setattr("profiler.planning.search.solver.time", ticks)
        outcome = search(
            problems, limit=limit, wanted=1, peak_first=peak_first, time_limit_seconds=seconds
        )
        assert outcome.bound <= truth
        empty += not outcome.found
        stopped += not outcome.complete
        for one in outcome.found:
            reached = one.peak if peak_first else one.cost
            assert reached >= truth
            assert outcome.gap == reached - outcome.bound
            assert one.peak <= limit
        if outcome.complete:
            assert rank(outcome.found[0], peak_first) == rank(best, peak_first)
    assert 0 < empty < stopped
    assert outcome.complete


def test_figures_too_large_to_add_up_are_refused():
    rows = ((Option("x", 1 << 60, (0,)),),) * 2
    with pytest.raises(OverflowError, match=r"2\^61"):
        search([Problem(decisions=rows, base=(0,))])


def every_choice(world, limit, use_limits):
    """Return every choice without dominated options that keeps the limits."""
    found = []
    for index, problem in enumerate(world):
        rows = [[one for one in row if not beaten(one, row)] for row in problem.decisions]
        for choice in product(*rows):
            state = problem.start
            for option in choice:
                state = None if state is None else problem.step(state, option.key)
            one = totals(index, problem, choice)
            kept = limit is None or one.peak <= limit
            pairs = zip(one.uses, use_limits, strict=True)
            if state is not None and kept and all(m is None or u <= m for u, m in pairs):
                found.append(one)
    return found


def beaten(option, row):
    """Whether an option of the same key is no worse in anything; of equals all but the first are."""
    mine = (option.cost, option.penalty, *option.uses, *option.load)
    for other in row:
        theirs = (other.cost, other.penalty, *other.uses, *other.load)
        no_worse = all(map(int.__le__, theirs, mine))
        earlier = row.index(other) < row.index(option)
        if other.key == option.key and no_worse and (theirs != mine or earlier):
            return True
    return False


def totals(index, problem, choice):
    loads = zip(problem.base, *(option.load for option in choice), strict=True)
    uses = zip(problem.base_uses, *(option.uses for option in choice), strict=True)
    return Found(
        problem=index,
        keys=tuple(option.key for option in choice),
        labels=tuple(option.label for option in choice),
        cost=sum(option.cost for option in choice),
        peak=max(map(sum, loads)),
        penalty=problem.penalty + sum(option.penalty for option in choice),
        uses=tuple(map(sum, uses)),
    )


def rank(found, peak_first):
    pair = (found.peak, found.cost) if peak_first else (found.cost, found.peak)
    return (*pair, found.penalty)
