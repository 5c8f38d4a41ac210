"""Promises of plans against runs."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import Act, Script, build

from profiler.applying import apply, verify
from profiler.planning import plan_offload
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

SCRIPT = Script(
    {"a": (1000,), "b": (4000,), "c": (2000,)},
    (
        Act("run", "a", 100, 100),
        Act("run", "b", 3000, 100),
        Act("cast", "c", dtype="float32"),
        Act("encode", "c", 1000, 100),
        Act("cast", "c", dtype="float16"),
    ),
)


def profile_of(script):
    with VirtualGPU("rtx-4060"):
        pipe = build(script)
        pipe.enable_model_cpu_offload()
        with trace(pipe) as t:
            pipe()
    return t.profile


@pytest.fixture(scope="module")
def plan():
    """The best plan for a kilobyte less than everything resident takes."""
    profile = profile_of(SCRIPT)
    resident = plan_offload(profile, 2 << 30, levers=(), objective="bytes").predicted.device_bytes
    return plan_offload(profile, resident - 1024, levers=(), objective="bytes")


@pytest.fixture
def applied(plan):
    with VirtualGPU("rtx-4060"):
        pipe = build(SCRIPT)
        apply(plan, pipe)
        yield pipe


def test_kept_promise(applied, plan):
    verification = verify(applied, plan)
    assert verification.held
    assert verification.found.h2d_weight_bytes == plan.predicted.h2d_weight_bytes
    assert verification.found.peak_allocated_bytes == plan.predicted.peak_allocated_bytes
    assert str(verification).startswith("The plan held")
    assert verification.summary()["differences"] == []


def test_stock_offload_enabled_again_is_drift(applied, plan):
    for name in ("model_cpu_offload_seq", "_exclude_from_cpu_offload", "maybe_free_model_hooks"):
        delattr(applied, name)
    applied.enable_model_cpu_offload()
    verification = verify(applied, plan)
    assert not verification.held
    assert any("sticky exclusion is off" in line for line in verification.drift)
    assert any("went up in a call" in line for line in verification.differences)
    assert str(verification).startswith("The plan did not hold: ")


def test_another_mode_is_drift(applied, plan):
    applied.remove_all_hooks()
    applied.to("cpu")
    applied.enable_sequential_cpu_offload()
    assert "sequential offload is active" in verify(applied, plan).drift[0]


def test_pipe_without_the_plan_is_told(plan):
    with VirtualGPU("rtx-4060"):
        pipe = build(SCRIPT)
        pipe.to("cuda")
        assert any("the plan is not in effect" in line for line in verify(pipe, plan).drift)


def test_a_higher_peak_is_told(applied, plan):
    applied.script = Script(SCRIPT.components, (*SCRIPT.acts, Act("run", "b", 10_000_000, 0)))
    assert any("the peak was" in line for line in verify(applied, plan).differences)


def test_another_order_is_told(applied, plan):
    applied.script = Script(SCRIPT.components, (Act("encode", "c", 10, 10), *SCRIPT.acts))
    lines = verify(applied, plan).differences
    assert any(line.startswith("move ") for line in lines)


def test_running_out_of_memory_is_told(plan):
    with VirtualGPU(capacity="1GiB"):
        pipe = build(Script(SCRIPT.components, (*SCRIPT.acts, Act("run", "b", 1 << 31, 0))))
        apply(plan, pipe)
        verification = verify(pipe, plan)
    assert any("OutOfMemoryError" in line for line in verification.differences)


def test_without_a_gpu_a_twin_runs_and_the_pipe_stays_as_it_is(plan):
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    pipe = build(SCRIPT)
    before = {name: id(value) for name, value in vars(pipe).items()}
    assert verify(pipe, plan).held
    assert {name: id(value) for name, value in vars(pipe).items()} == before
    assert {str(parameter.device) for parameter in pipe.b.parameters()} == {"cpu"}


def test_enabling_again_as_a_lora_load_does_keeps_the_plan(applied, plan):
    """Sequence, exclusions and end of call are the instance's own, so diffusers' call sets the same plan up again."""
    applied.enable_model_cpu_offload()
    assert verify(applied, plan).held
