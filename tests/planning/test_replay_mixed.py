"""Any plan, put into effect on real tiny pipelines by `apply`, against its replay: event for event, and host memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from inside_worlds import any_schemes, cost_table, in_calls, under_model_offload, workload
from placed_worlds import plan_of
from replay_worlds import FAMILIES

from profiler.applying.apply import put
from profiler.planning.costs.table import evaluate
from profiler.planning.replaying.simulate import simulate
from profiler.tracing import trace
from profiler.virtual import VirtualGPU


def real(family, scheme, folder):
    """Return the profile of two calls under a plan."""
    with VirtualGPU("rtx-4090"):
        pipe, call = FAMILIES[family]()
        for name in ("unet", "transformer", "controlnet", "vae"):
            if hasattr(pipe, name):
                getattr(pipe, name).to(torch.float16)
        with trace(pipe) as t:
            put(plan_of(pipe, scheme), pipe, folder=folder)
            for _ in range(2):
                pipe(num_inference_steps=3, **call)
    return t.profile


@pytest.mark.parametrize("family", ["controlnet", "flux", "wan", "sdxl_img2img"])
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_mixed_plan_is_replayed_event_for_event(family, tmp_path, data):
    scheme = data.draw(any_schemes(family, disk=False))
    assume(cost_table(family).sound(scheme))
    profile = real(family, scheme, tmp_path)
    assert in_calls(simulate(workload(family), scheme)) == in_calls(profile.events)
    if not any(getattr(inside, "low_cpu_mem", False) for inside in scheme.inside.values()):
        # Pinned on the fly, it depends on when PyTorch's events are done how much is pinned at once.
        pinned = evaluate(cost_table(family), scheme).host.pinned
        read = under_model_offload(family).totals.host_pinned_bytes
        assert profile.totals.host_pinned_bytes == pinned + read
