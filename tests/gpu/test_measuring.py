"""On a real GPU: the peaks that a trace tells, its seconds beside torch's own, plans from its parts, and blocks."""

import pytest
import torch
from tiny_flux import write_tiny_flux

from profiler.pipelines import load_pipeline
from profiler.planning import plan_offload
from profiler.tracing import trace
from profiler.units import MIB

pytestmark = pytest.mark.gpu


@pytest.fixture
def pipe(tmp_path):
    made = load_pipeline(write_tiny_flux(tmp_path / "flux"), weights="random")
    made.set_progress_bar_config(disable=True)
    return made


def called(pipe):
    generator = torch.Generator().manual_seed(0)
    size = {"height": 256, "width": 256, "max_sequence_length": 8}
    return pipe("a cat", num_inference_steps=8, output_type="pt", generator=generator, **size)


def peaks_of(run):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def traced(pipe):
    with trace(pipe) as t:
        called(pipe)
    return t.profile


@pytest.mark.parametrize("mode", ["resident", "model"])
def test_peaks_are_those_of_an_untraced_call(pipe, mode):
    if mode == "model":
        pipe.enable_model_cpu_offload()
    else:
        pipe.to("cuda")
    called(pipe)  # kernels and workspaces are there from here on
    expected = peaks_of(lambda: called(pipe))
    profiles = []
    left = peaks_of(lambda: profiles.append(traced(pipe)))
    totals = profiles[0].totals
    said = totals.peak_allocated_bytes, totals.peak_reserved_bytes
    assert said == pytest.approx(expected, abs=MIB)
    assert left[0] < expected[0]  # torch's own start anew


def test_seconds_are_those_of_the_gpu(pipe):
    pipe.to("cuda")
    called(pipe)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with trace(pipe) as t:
        called(pipe)  # with its first two forwards looked at
        begin.record()
        called(pipe)
        end.record()
    torch.cuda.synchronize()
    calls = t.profile.calls
    assert calls[calls.call == 1].seconds.item() == pytest.approx(
        begin.elapsed_time(end) / 1000, rel=0.05
    )


def test_a_measured_run_can_be_planned_part_by_part(pipe):
    pipe.enable_model_cpu_offload()
    with trace(pipe) as t:
        for _ in range(2):
            called(pipe)
    steps = [
        event.inside
        for event in t.profile.events
        if (event.kind, event.component) == ("exit", "transformer")
    ]
    assert len(steps) == 16
    assert min(steps) >= 0
    assert len(set(steps[1:])) == 1
    assert plan_offload(t.profile, 1 << 40).smallest.plan.inside


@pytest.mark.parametrize("mode", ["resident", "model"])
def test_the_blocks_of_a_memory_history_are_the_peak(pipe, mode):
    """To the byte, and the weights are the peak breakdown's but for rests that could not be split off."""
    if mode == "model":
        pipe.enable_model_cpu_offload()
    else:
        pipe.to("cuda")
    with trace(pipe, memory_history=True) as t:
        called(pipe)
    assert not torch._C._cuda_isHistoryEnabled()
    assert torch.cuda.memory._get_memory_metadata() == ""
    history = t.profile.memory_history
    assert history.blocks["bytes"].sum() == t.profile.totals.peak_allocated_bytes
    sums = history.by_component
    taken = sums[sums["what"] == "weights"].set_index("component")["bytes"].to_dict()
    bill = {one.holder: one.bytes for one in t.profile.bill if one.what == "weights"}
    assert set(taken) == set(bill) != set()
    assert all(bill[name] <= size <= bill[name] + 64 * MIB for name, size in taken.items())
