"""Several calls that come again and again, one plan: new prompts, cached ones, image to image."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shallow_models import shallow_pipeline
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.applying import apply, verify
from profiler.cli.app import app
from profiler.cli.call_words import call_options
from profiler.errors import InputError
from profiler.libraries.hooks import END_OF_CALL
from profiler.pipelines.sibling import sibling
from profiler.placements.scheme import Scheme
from profiler.planning import plan_offload
from profiler.planning.costs.link import link_of
from profiler.planning.costs.table import evaluate, tabulate
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.workload import workload_of
from profiler.record.profile import Profile
from profiler.sizing.scenario import CallOptions
from profiler.tracing import Call, profile_calls
from profiler.virtual import VirtualGPU

IMAGE_TO_IMAGE = "FluxImg2ImgPipeline"
WEIGHTS = (1, 3, 2)


def pipelines():
    pipe = shallow_pipeline("flux1-dev")
    return pipe, sibling(pipe, IMAGE_TO_IMAGE)


@cache
def profile():
    with VirtualGPU("rtx-4060"):
        pipe, other = pipelines()
        return profile_calls(
            pipe,
            Call(height=256, width=256, num_inference_steps=2),
            Call(height=512, width=512, num_inference_steps=3, cached_prompt=True, weight=3),
            Call(other, height=256, width=256, num_inference_steps=2, strength=1.0, weight=2),
            mode="model",
        )


@cache
def cost_table():
    return tabulate(workload_of(profile()), link_of(profile()))


@cache
def budgets():
    """Return the smallest budget, and one that holds everything."""
    everything = plan_offload(profile(), 1 << 40)
    return everything.smallest_budget_bytes, everything.predicted.device_bytes


def entered(call):
    return {
        event.component
        for event in profile().events
        if event.call == call and event.kind == "enter" and "encoder" in event.component
    }


def test_the_record_tells_the_calls_apart():
    assert profile().complete
    told = [
        (one.pipeline_class, one.weight, one.call["height"], one.call.get("cached_prompt", False))
        for one in profile().signatures
    ]
    assert told == [
        ("FluxPipeline", 1, 256, False),
        ("FluxPipeline", 3, 512, True),
        (IMAGE_TO_IMAGE, 2, 256, False),
    ]
    encoders = {"text_encoder", "text_encoder_2"}
    assert [entered(call) for call in range(3)] == [encoders, set(), encoders]


def test_the_calls_survive_the_file(tmp_path):
    profile().save(tmp_path / "p.parquet")
    assert Profile.load(tmp_path / "p.parquet").signatures == profile().signatures


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_totals_are_those_of_the_events_of_a_round(data):
    """The highest of all calls, and what is moved in a round, each call as often as it comes."""
    names = cost_table().names
    order = data.draw(st.permutations(names))
    cut = data.draw(st.integers(0, len(names)))
    scheme = Scheme(
        tuple(order[:cut]),
        frozenset(order[cut:]) - data.draw(st.frozensets(st.sampled_from(names))),
        data.draw(st.booleans()),
    )
    recorded = len(WEIGHTS)
    events = simulate(workload_of(profile()), scheme, calls=3 * recorded)
    in_round = dict(enumerate(WEIGHTS, 2 * recorded))

    def moved(kind):
        return sum(
            in_round[e.call] * e.bytes for e in events if e.call in in_round and e.kind == kind
        )

    totals = evaluate(cost_table(), scheme)
    assert totals.peak_allocated_bytes == max(
        max(event.lead_peak_bytes, event.peak_bytes) for event in events
    )
    assert (totals.h2d_weight_bytes, totals.d2h_weight_bytes) == (moved("onload"), moved("offload"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_plan_for_all_calls_is_the_sum_of_its_calls_and_holds(share):
    smallest, largest = budgets()
    plan = plan_offload(profile(), smallest + int(share * (largest - smallest)))
    assert plan.weights == WEIGHTS
    for name in ("h2d_weight_bytes", "d2h_weight_bytes"):
        summed = sum(one.weight * getattr(one, name) for one in plan.signatures)
        assert getattr(plan.predicted, name) == summed // sum(WEIGHTS)
    seconds = sum(one.weight * one.seconds for one in plan.signatures)
    assert plan.predicted.seconds == pytest.approx(seconds / sum(WEIGHTS))
    with VirtualGPU("rtx-4060"):
        pipe, _ = pipelines()
        apply(plan, pipe)
        verification = verify(pipe, plan)
    assert verification.held, str(verification)
    found_bytes, promised_bytes = (
        one.peak_allocated_bytes for one in (verification.found, plan.predicted)
    )
    # What is allocated includes the rest of a block that is too small to split off: that depends on when the cache is
    # emptied, which the end of the other pipeline's calls does under the plan, and did not in the run planned from.
    assert found_bytes == pytest.approx(promised_bytes, rel=0.02)


def test_another_pipeline_ends_its_calls_as_the_planned_one_does_until_undone():
    loose = plan_offload(profile(), 1 << 40, levers=())
    plan = plan_offload(profile(), loose.smallest_budget_bytes, levers=())
    with VirtualGPU("rtx-4060"):
        pipe, other = pipelines()
        for one in (pipe, other):
            one.set_progress_bar_config(disable=True)
        applied = apply(plan, pipe, also=[other])
        profile_calls(pipe, Call(other, height=256, width=256, num_inference_steps=1))
        assert END_OF_CALL in vars(other)
        homes = {part.device.type for part in (pipe.vae, pipe.transformer, pipe.text_encoder)}
        assert homes == {"cpu"}
        applied.undo()
        assert END_OF_CALL not in vars(other)
        foreign = sibling(shallow_pipeline("flux1-dev"), IMAGE_TO_IMAGE)
        with pytest.raises(InputError, match=r"FluxImg2ImgPipeline has a vae, .* of its own"):
            apply(plan, pipe, also=[foreign])


def test_one_given_call_does_not_verify_a_plan_for_several():
    plan = plan_offload(profile(), budgets()[1])
    with pytest.raises(InputError, match="for several calls"):
        verify(None, plan, prompt="a cat")


def test_words_of_a_call():
    assert call_options(
        "pipeline=FluxImg2ImgPipeline weight=6 height=512 strength=0.6 cached-prompt prompt='a b'"
    ) == CallOptions(
        pipeline_class=IMAGE_TO_IMAGE,
        weight=6,
        height=512,
        cached_prompt=True,
        extra={"strength": 0.6, "prompt": "a b"},
    )
    for wrong in ("height=tall", "height", "'open", "weight=0.5"):
        with pytest.raises(InputError, match="--also"):
            call_options(wrong)


def test_the_command_plans_for_several_calls(tmp_path):
    words = [
        "plan",
        str(write_tiny_pipeline(tmp_path / "tiny")),
        "--height",
        "64",
        "--width",
        "64",
        "--budget",
        "2GiB",
        "--steps",
        "2",
        "--weight",
        "2",
        "--levers",
        "none",
    ]
    also = ["--also", "cached-prompt height=128 width=128 steps=2 weight=5"]
    path = tmp_path / "plan.json"
    answer = CliRunner().invoke(app, [*words, *also, "--json", "-o", str(path)])
    assert answer.exit_code == 0, answer.output
    plan = json.loads(answer.stdout)["plan"]
    assert [(one["weight"], one["call"].get("height")) for one in plan["signatures"]] == [
        (2, 64),
        (5, 128),
    ]
    held = CliRunner().invoke(app, ["verify", str(path)])
    assert held.exit_code == 0, held.output
    refused = CliRunner().invoke(app, [*words, "--also", "pipeline=StableDiffusionXLPipeline"])
    assert refused.exit_code == 2
    assert "which StableDiffusionXLPipeline needs" in refused.output
