"""A plan is promised only after its run got through the full allocator under the budget."""

from dataclasses import replace

import pytest

from profiler.errors import FindingError
from profiler.planning import Wish
from profiler.planning.planner import plan_as
from profiler.sizing.confirming import ROUNDS, confirmed_plan, shortened
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, profile_without_limit
from profiler.units import GIB, MIB


def _computed(plan, capacity_bytes):
    """Return the peak of a run that has just the computed one."""
    return plan.predicted.peak_allocated_bytes


STOCK = Wish(budget_bytes=8 * GIB, objective="bytes", levers=())


@pytest.fixture(scope="module")
def sdxl():
    return profile_without_limit(Scenario(model="sdxl-base", gpu="rtx-4060", steps=2))


def test_the_next_best_is_taken_where_the_winner_does_not_get_through(sdxl):
    tried = []
    both = ("text_encoder", "text_encoder_2")

    def run_peak(plan, capacity_bytes):
        tried.append((plan.excluded, (plan.budget_bytes - capacity_bytes) // MIB))
        through = plan.excluded != both or capacity_bytes < plan.budget_bytes
        return plan.predicted.peak_allocated_bytes if through else None

    plan = confirmed_plan(sdxl, STOCK, run_peak=run_peak)
    # With 256, 512 and 1024 MiB of slack. text_encoder_2 would need 450 MiB of context + 6.40 GiB + 1 GiB + 2.6 % of
    # 6.40 GiB = 8.01 GiB then, and text_encoder 0.23 instead of its 1.29 GiB; with 768 MiB text_encoder_2 fits. A plan
    # that failed, or got through, is not run again: the winner with 512 MiB, text_encoder_2 with 640 and 576.
    # In the first run of two a quarter of the 256 MiB is kept back.
    first, second = ("text_encoder",), ("text_encoder_2",)
    assert tried == [(which, kept) for which in (both, first, second) for kept in (64, 0)]
    assert plan.excluded == second


@pytest.mark.parametrize("most", [0.85, 0.95])
def test_no_more_slack_is_given_than_it_takes(sdxl, most):
    wish = Wish(budget_bytes=8 * GIB, levers=("stream",))
    best = plan_as(sdxl, wish).predicted.peak_allocated_bytes

    def run_peak(plan, capacity_bytes):
        peak_bytes = plan.predicted.peak_allocated_bytes
        return peak_bytes if peak_bytes <= most * best else None

    plan = confirmed_plan(sdxl, wish, run_peak=run_peak)
    # One after the other, in the steps in which the span between 2^n and 2^(n+1) times 256 MiB is halved thrice.
    slacks = (256 * 2**n * MIB * eighths // 8 for n in range(5) for eighths in range(8, 16))
    plans = (plan_as(sdxl, replace(wish, slack_bytes=slack)) for slack in slacks)
    assert plan == next(one for one in plans if run_peak(one, wish.budget_bytes))


def test_a_plan_that_fails_with_a_recorded_stream_is_sought_without(sdxl):
    wish = Wish(budget_bytes=5 * GIB, levers=("group",))
    tried = []

    def run_peak(plan, capacity_bytes):
        records = any(one["record_stream"] for one in plan.inside.values())
        tried.append(records)
        return None if records else plan.predicted.peak_allocated_bytes

    assert any(one["record_stream"] for one in plan_as(sdxl, wish).inside.values())
    plan = confirmed_plan(sdxl, wish, run_peak=run_peak)
    assert tried == [True, False, False]  # with a quarter of the slack kept back, and without
    assert plan.scheme == plan_as(sdxl, replace(wish, recorded_streams=False)).scheme
    assert plan.inside
    assert plan.margin.slack_bytes == sdxl.gpu.slack_bytes


def test_a_plan_is_run_with_few_steps_and_returned_with_all(sdxl):
    sdxl.call["num_inference_steps"] = 50
    plan = confirmed_plan(sdxl, STOCK, run_peak=_computed)
    assert plan.call["num_inference_steps"] == 50
    steps = [shortened(plan, wanted).call["num_inference_steps"] for wanted in ROUNDS]
    assert steps == list(ROUNDS)
    # A picture that is worked on with half the strength runs half the steps; nobody gets more than was asked for.
    for call, wanted in (
        ({"num_inference_steps": 50, "strength": 0.5}, 4),
        ({"num_inference_steps": 1}, 1),
        ({}, 2),
    ):
        assert shortened(replace(plan, call=call), 2).call["num_inference_steps"] == wanted


def test_what_never_gets_through_is_told_as_fragmentation_and_the_advice_works(monkeypatch):
    scenario = Scenario(model="cogvideox-5b", gpu="rtx-4090", steps=2)
    profile = profile_without_limit(scenario)
    with pytest.raises(FindingError, match="the free memory is in pieces") as told:
        plan_model(profile, 17 * GIB, levers=())
    advice = "PYTORCH_ALLOC_CONF=expandable_segments:True"
    assert advice in str(told.value)
    monkeypatch.setenv(*advice.split("="))
    assert plan_model(profile, 17 * GIB, levers=()).budget_bytes == 17 * GIB
