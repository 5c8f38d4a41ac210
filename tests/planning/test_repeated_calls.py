"""A repeated call, predicted from the first alone, is the second call that was recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shallow_models import shallow_pipeline
from tiny_flux import write_tiny_flux

from profiler.applying import verify
from profiler.pipelines import load_pipeline
from profiler.planning import plan_offload
from profiler.planning.replaying.workload import workload_of
from profiler.tracing import profile_pipeline, trace
from profiler.units import MIB
from profiler.virtual import VirtualGPU

CALLS = {
    "flux1-dev": {"height": 256, "width": 256, "num_inference_steps": 2},
    "sdxl-base": {"height": 256, "width": 256, "num_inference_steps": 2},
    "sd15": {"height": 256, "width": 256, "num_inference_steps": 2},
    "wan2.1-t2v-1.3b": {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2},
}


UNSPLIT_BYTES = MIB
"""The most that the allocator leaves unsplit in a large block: a second call reuses other blocks than the first."""


def levels(ops):
    """Return the allocated bytes besides weights at every moment that a plan can act at."""
    for op in ops:
        for stretch in op.gap:
            base_bytes = stretch.base_floating_bytes
            yield base_bytes
            for visit in stretch.inside.visits if stretch.inside else ():
                yield base_bytes + visit.allocated_bytes
        yield op.before_floating_bytes
        yield op.after_floating_bytes


@pytest.mark.parametrize("model", CALLS)
def test_a_repeated_call_starts_with_what_is_left_and_has_the_levels_of_a_second_one(model):
    with VirtualGPU("rtx-4090"):
        pipe = shallow_pipeline(model)
        pipe.enable_model_cpu_offload()
        with trace(pipe) as tracing:
            for _ in range(2):
                pipe("a cat", **CALLS[model])
    recorded = workload_of(tracing.profile)
    alone = replace(recorded, calls=recorded.calls[:1])
    repeated = alone.tape(1)
    off_bytes = [
        abs(said - was)
        for said, was in zip(levels(repeated), levels(recorded.calls[1]), strict=True)
    ]
    assert max(off_bytes) <= 2 * UNSPLIT_BYTES < recorded.workspace_bytes // 4
    assert list(levels(alone.tape(0))) != list(levels(repeated))


def test_a_plan_whose_peak_comes_before_the_first_product_holds_in_the_second_call(tmp_path):
    """In the first call of this pipe, the embeddings are on the GPU before cuBLAS has a workspace."""
    pipe = load_pipeline(write_tiny_flux(tmp_path), weights="random")
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    profile = profile_pipeline(pipe, prompt="a cat", **call)
    everything = plan_offload(profile, 1 << 40)
    for budget_bytes in (
        everything.smallest_budget_bytes,
        everything.smallest_budget_bytes + 8 * MIB,
    ):
        plan = plan_offload(profile, budget_bytes)
        verification = verify(pipe, plan)
        assert verification.held, str(verification)
