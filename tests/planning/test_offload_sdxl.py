"""Stable Diffusion XL in half precision at 1024 x 1024: what stock offload moves, and what a plan saves."""

from __future__ import annotations

import pytest

from profiler import load_pipeline
from profiler.applying import apply, verify
from profiler.placements.scheme import Scheme
from profiler.planning import plan_offload
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.workload import workload_of
from profiler.tracing import trace
from profiler.units import GIB
from profiler.virtual import VirtualGPU

CALL = {"prompt": "a cat", "num_inference_steps": 2}


def run(pipe, calls):
    with trace(pipe, label={"call": CALL, "model": "sdxl-base"}) as t:
        for _ in range(calls):
            pipe(**CALL)
    return t.profile


def pipeline():
    pipe = load_pipeline("sdxl-base", dtype="float16")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(autouse=True, scope="module")
def blocks_without_rests():
    """Let the allocator split every block exactly, as it does in expandable segments.

    Elsewhere up to 1 MiB stays with a block, and how much depends on addresses, which a replay does not know.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        yield


@pytest.fixture(scope="module")
def stock():
    with VirtualGPU("rtx-4090"):
        pipe = pipeline()
        pipe.enable_model_cpu_offload()
        return run(pipe, 2)


def copied(profile, call, direction):
    kinds = {"up": ("onload", "cpu"), "down": ("offload", "cuda:0")}
    move, source = kinds[direction]
    return sum(
        event.bytes
        for event in profile.events
        if event.call == call
        and (event.kind == move or (event.kind == "copy" and event.from_device == source))
    )


def test_second_call_of_stock_offload_moves_everything(stock):
    """6.62 GiB up; 6.47 GiB down, the image included. The VAE goes up in fp32 and comes home in fp16."""
    assert copied(stock, 1, "up") / GIB == pytest.approx(6.62, abs=0.005)
    assert copied(stock, 1, "down") / GIB == pytest.approx(6.47, abs=0.005)


# Times are differences of a clock that runs on from call to call: equal but for the last digits.
CLOCK = dict.fromkeys(
    ("start_seconds", "seconds", "transfer_seconds", "exposed_transfer_seconds"), 0.0
)


def test_replay_of_stock_offload_is_the_recording(stock):
    replayed = simulate(workload_of(stock), Scheme(stock.sequence))
    told = [
        (e.kind, e.component, e.bytes, e.lead_peak_bytes, e.peak_bytes)
        for e in replayed
        if e.call >= 0
    ]
    assert told == [
        (e.kind, e.component, e.bytes, e.lead_peak_bytes, e.peak_bytes) for e in stock.events
    ]


def test_plan_for_a_ten_gib_gpu_keeps_the_unet_and_holds(stock):
    plan = plan_offload(stock, 10 * GIB, levers=(), objective="bytes")
    assert "unet" in plan.excluded
    with VirtualGPU("rtx-4090", capacity="10GiB"):
        pipe = pipeline()
        apply(plan, pipe)
        verification = verify(pipe, plan)
        profile = run(pipe, 3)
    assert verification.held, str(verification)
    assert verification.found.peak_allocated_bytes == plan.predicted.peak_allocated_bytes
    assert not [
        e for e in profile.events if e.component == "unet" and e.kind in ("onload", "offload")
    ]
    calls = [[e for e in profile.events if e.call == call] for call in range(3)]
    told = [
        [e._replace(call=0, ordinal=0, reserved_bytes=0, **CLOCK) for e in one] for one in calls
    ]
    assert told[0] == told[1] == told[2]


def test_after_the_first_call_of_a_plan_three_in_a_row_are_identical(stock):
    """Reserved memory included. The first call differs: it takes cuBLAS's workspace, and finds an empty pool."""
    plan = plan_offload(stock, 10 * GIB, levers=(), objective="bytes")
    with VirtualGPU("rtx-4090"):
        pipe = pipeline()
        apply(plan, pipe)
        events = run(pipe, 4).events
    told = [
        [e._replace(call=0, ordinal=0, **CLOCK) for e in events if e.call == call]
        for call in range(1, 4)
    ]
    assert told[0] == told[1] == told[2]
