"""Totals against the event log, and the planner against trying everything, over the whole vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from inside_worlds import any_schemes, cost_table, workload

from profiler.placements.placement import LEVERS
from profiler.placements.scheme import Scheme
from profiler.planning.choices import choices_of
from profiler.planning.costs.table import evaluate
from profiler.planning.replaying.simulate import simulate
from profiler.planning.search.solver import search


@pytest.mark.parametrize(
    "family", ["sd15", "sdxl_upcast", "sdxl_img2img", "controlnet", "flux", "wan", "qwen_image"]
)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_totals_are_those_of_the_events(family, data):
    scheme = data.draw(any_schemes(family))
    assume(cost_table(family).sound(scheme))
    calls = len(workload(family).calls) + 2
    events = simulate(workload(family), scheme, calls=calls)
    last = [event for event in events if event.call == calls - 1]
    totals = evaluate(cost_table(family), scheme)
    assert totals.peak_allocated_bytes == max(
        max(event.lead_peak_bytes, event.peak_bytes) for event in events
    )
    assert totals.h2d_weight_bytes == sum(e.bytes for e in last if e.kind == "onload")
    assert totals.d2h_weight_bytes == sum(e.bytes for e in last if e.kind == "offload")


def every_choice(problem, number=0, state=None, taken=()):
    """Yield every complete choice of options that the rule allows."""
    state = problem.start if number == 0 else state
    if number == len(problem.decisions):
        yield taken
        return
    for option in problem.decisions[number]:
        following = problem.step(state, option.key)
        if following is not None:
            yield from every_choice(problem, number + 1, following, (*taken, option))


@settings(max_examples=12, deadline=None)
@given(st.integers(8_700_000, 9_300_000), st.sampled_from([None, 0, 400_000, 700_000]))
def test_the_best_plan_is_that_of_trying_everything(limit, ram):
    stock = Scheme(workload("flux").names)
    choices = choices_of(
        workload("flux"),
        cost_table("flux"),
        stock,
        lambda cost: cost.exposed_nanoseconds,
        sticky=True,
        levers=LEVERS,
    )
    tried = []
    for problem in choices.problems:
        for taken in every_choice(problem):
            columns = zip(problem.base, *(option.load for option in taken), strict=True)
            peak, cost = max(map(sum, columns)), sum(option.cost for option in taken)
            used = sum(option.uses[0] for option in taken)
            if peak <= limit and (ram is None or used <= ram):
                tried.append((cost, peak))
    outcome = search(choices.problems, limit=limit, use_limits=(ram,), wanted=1)
    assert [(one.cost, one.peak) for one in outcome.found] == sorted(tried)[:1]
    for one in outcome.found:
        totals = evaluate(cost_table("flux"), choices.scheme(one))
        assert (one.cost, one.peak) == (totals.exposed_nanoseconds, totals.peak_allocated_bytes)
        assert one.uses == (totals.host.total,)
