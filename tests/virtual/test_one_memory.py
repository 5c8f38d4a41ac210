"""GPUs that share the host's memory: what one holds the other lacks, on the virtual GPU, in a profile and in a plan."""

from __future__ import annotations

import pytest
import torch
from replay_worlds import FAMILIES

from profiler.applying import apply, verify
from profiler.errors import InputError
from profiler.findings import findings
from profiler.gpus.hardware import gpu_spec, gpu_spec_of_properties, gpu_specs
from profiler.planning import plan_offload
from profiler.planning.does_not_fit import DoesNotFitError
from profiler.record.verdict import verdict
from profiler.tracing import profile_pipeline
from profiler.units import GIB, MIB
from profiler.virtual import VirtualGPU

CONTEXT = gpu_spec("gb10").context_bytes


def profiled(mode, gpu="gb10"):
    with VirtualGPU(gpu):
        pipe, call = FAMILIES["sd15"]()
        return profile_pipeline(pipe, mode=mode, num_inference_steps=2, **call)


def test_which_gpus_share_the_hosts_memory():
    shared = {one.key for one in gpu_specs() if one.unified_memory}
    assert shared == {
        "gb10",
        "jetson-agx-orin",
        "jetson-agx-thor",
        "strix-halo",
        "apple-m2-16gb",
        "apple-m4-max-128gb",
    }
    # Coherent, and with HBM of its own all the same.
    assert not gpu_spec("gh200").unified_memory


def test_the_gpu_has_what_the_host_leaves():
    with VirtualGPU("gb10", capacity="8GiB"):
        assert torch.cuda.get_device_properties(0).is_integrated
        free = [torch.cuda.mem_get_info()[0]]
        weights = torch.empty(2 * GIB, dtype=torch.uint8)
        free.append(torch.cuda.mem_get_info()[0])
        weights = weights.to("cuda")
        free.append(torch.cuda.mem_get_info()[0])
        del weights
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
    whole = 8 * GIB - CONTEXT
    # The copy on the host is gone once the weights have moved.
    assert free == [whole, whole - 2 * GIB, whole - 2 * GIB, whole]


def test_an_allocation_fails_where_the_host_holds_the_rest():
    with VirtualGPU("gb10", capacity="8GiB"):
        held = torch.empty(6 * GIB, dtype=torch.uint8)
        with pytest.raises(
            torch.cuda.OutOfMemoryError, match=r"capacity of 8.00 GiB of which 1.46"
        ):
            torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
        del held
        torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")


def test_a_gpu_of_its_own_memory_does_not_care():
    with VirtualGPU("rtx-4090", capacity="8GiB"):
        held = torch.empty(6 * GIB, dtype=torch.uint8)
        torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
        del held


def test_a_profile_has_the_most_that_both_held_at_once():
    """Recounted from the events: at each end of one, what was reserved then and what the host held."""
    profile = profiled("model")
    together = profile.totals.shared_peak_bytes
    ends = [
        CONTEXT + event.reserved_bytes + event.host_pageable_bytes + event.host_pinned_bytes
        for event in profile.events
    ]
    most = CONTEXT + profile.totals.peak_reserved_bytes + profile.totals.host_peak_bytes
    assert max(ends) <= together <= most
    assert verdict(profile).needed_bytes == together + verdict(profile).band_bytes
    assert profiled("model", "rtx-4090").totals.shared_peak_bytes is None


def test_offload_is_told_to_free_nothing_and_what_is_resident_is_not():
    (found,) = [one for one in findings(profiled("model")) if one.kind == "offload_in_one_memory"]
    assert found.fix.startswith('pipe.to("cuda")')
    assert not findings(profiled("resident"))
    kinds = {one.kind for one in findings(profiled("model", "rtx-4090"))}
    assert "offload_in_one_memory" not in kinds


def test_a_plan_keeps_everything_and_says_why():
    profile = profiled("model")
    plan = plan_offload(profile, "8GiB")
    assert (plan.sequence, set(plan.excluded)) == ((), set(plan.placements))
    assert plan.predicted.h2d_weight_bytes == plan.predicted.d2h_weight_bytes == 0
    assert "host and GPU share it" in plan.to_text()
    # What the host holds besides weights is part of what the budget must hold.
    margin = plan.margin
    terms = (
        margin.context_bytes,
        margin.peak_allocated_bytes,
        margin.slack_bytes,
        margin.error_band_bytes,
        margin.host_bytes,
    )
    assert sum(terms) == margin.device_bytes <= margin.budget_bytes
    # Offloading is the dearer one in memory, too: the weights are there twice while they are copied.
    assert plan.stock.predicted.device_bytes > plan.predicted.device_bytes


def test_a_plan_holds_within_the_least_budget_and_there_is_none_below():
    profile = profiled("model")
    least = plan_offload(profile, "8GiB").smallest_budget_bytes
    with pytest.raises(DoesNotFitError, match="of memory that host and GPU share under any plan"):
        plan_offload(profile, least - MIB)
    plan = plan_offload(profile, least)
    with VirtualGPU("gb10", capacity=least):
        pipe, _ = FAMILIES["sd15"]()
        apply(plan, pipe)
        assert verify(pipe, plan).held


def test_host_memory_has_no_budget_of_its_own():
    with pytest.raises(InputError, match="host and GPU of NVIDIA GB10 share one memory"):
        plan_offload(profiled("model"), "8GiB", ram_bytes="8GiB")


def test_an_integrated_gpu_that_nobody_knows_shares_its_memory():
    class Properties:
        name = "NVIDIA GB9"
        major, minor = 12, 1
        total_memory = 60 * GIB
        multi_processor_count = 24
        L2_cache_size = 24 * MIB
        is_integrated = 1

    found = gpu_spec_of_properties(Properties())
    assert found.unified_memory
    assert found.sources[0] == "estimate: NVIDIA GB10 scaled by 0.50"


def test_a_mac_is_a_model_of_its_memory_and_says_so():
    profile = profiled("model", "apple-m2-16gb")
    said = [one for one in profile.assumptions if one.what.startswith("Apple")]
    assert len(said) == 1
    assert profile.error_band >= 0.3
    assert profile.gpu.unified_memory
