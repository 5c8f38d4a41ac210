"""The search engine, on problems that are about nothing."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.planning.search import Found, Option, Problem, search


def anything(keys):
    return True


def two_decisions(**changes):
    """Cheap choices are heavy: (a, c) costs 0 at peak 9, (b, d) costs 7 at peak 3."""
    decisions = (
        (Option("a", 0, (4, 0)), Option("b", 3, (1, 1))),
        (Option("c", 0, (5, 1)), Option("d", 4, (2, 1))),
    )
    return Problem(**({"decisions": decisions, "base": (0, 0), "allowed": anything} | changes))


def test_without_a_limit_the_cheapest_choice_wins():
    outcome = search([two_decisions()])
    assert outcome.found == (
        Found(problem=0, keys=("a", "c"), cost=0, peak=9, penalty=0),
        Found(problem=0, keys=("b", "c"), cost=3, peak=6, penalty=0),
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
    assert (outcome.found, outcome.bound) == ((), None)


def test_peak_first_finds_the_lightest_choice():
    (found,) = search([two_decisions()], wanted=1, peak_first=True).found
    assert (found.keys, found.peak) == (("b", "d"), 3)


def test_equal_costs_are_decided_by_peak_then_by_penalty():
    rows = ((Option("x", 1, (3,)), Option("y", 1, (2,), 5), Option("z", 1, (2,), 4)),)
    problem = Problem(decisions=rows, base=(0,), allowed=anything)
    assert [found.keys for found in search([problem], wanted=3).found] == [("z",), ("y",), ("x",)]


def test_the_best_of_several_problems_is_found_and_named():
    dearer = two_decisions(penalty=1)
    lighter = two_decisions(base=(-1, 0))
    assert [found.problem for found in search([dearer, lighter], wanted=2).found] == [1, 0]


OPTIONS = st.lists(
    st.tuples(st.integers(0, 6), st.tuples(*[st.integers(0, 5)] * 3), st.integers(0, 2)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50)
@given(st.lists(OPTIONS, min_size=1, max_size=4), st.integers(0, 15), st.booleans(), st.data())
def test_the_answer_is_that_of_trying_everything(rows, limit, peak_first, data):
    decisions = tuple(
        tuple(Option(str(key), *option) for key, option in enumerate(row)) for row in rows
    )
    forbidden = data.draw(st.sets(st.tuples(*[st.integers(0, 3).map(str)] * 2), max_size=4))
    problem = Problem(
        decisions=decisions, base=(1, 2, 0), allowed=lambda keys: keys[:2] not in forbidden
    )
    ranks = sorted(
        rank(choice, peak_first)
        for choice in product(*decisions)
        if tuple(option.key for option in choice)[:2] not in forbidden
        and rank(choice, peak_first)[not peak_first] <= limit
    )
    outcome = search([problem], limit=limit, wanted=3, peak_first=peak_first)
    assert [rank_of(found, peak_first) for found in outcome.found] == ranks[:3]
    assert outcome.gap == 0


def rank(choice, peak_first):
    peak = max(
        base + sum(option.load[moment] for option in choice)
        for moment, base in enumerate((1, 2, 0))
    )
    cost = sum(option.cost for option in choice)
    penalty = sum(option.penalty for option in choice)
    return (peak, cost, penalty) if peak_first else (cost, peak, penalty)


def rank_of(found, peak_first):
    if peak_first:
        return (found.peak, found.cost, found.penalty)
    return (found.cost, found.peak, found.penalty)
