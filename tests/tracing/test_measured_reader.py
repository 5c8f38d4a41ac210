"""The tracer as it works on a real GPU, run where the truth is known: on a virtual one that answers torch's calls."""

import dataclasses
from collections import Counter

import pytest
import torch
from gpu_worlds import measured_reader, tiny, traced_as

from profiler.allocator.history_replay import BlockReplay, DoesNotAddUpError
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.patching import Patches
from profiler.planning import plan_offload
from profiler.planning.costs.link import link_of
from profiler.tracing import Trace
from profiler.tracing.measured.copies import watch_methods
from profiler.tracing.measured.peaks import Peaks
from profiler.units import MIB
from profiler.virtual import VirtualGPU

STREAMED = {"stream": True, "record_stream": True}
MODES = [
    ("sdxl", Mode()),
    ("sdxl", Mode(name="model")),
    ("flux", Mode(name="model")),
    ("flux", Mode(name="sequential")),
    ("flux", Mode(name="group-leaf", **STREAMED)),
    ("wan", Mode(name="group-block")),
]
# What a GPU does not tell, or another reader reads: the resident set of the process is no count of tensors.
NOT_TOLD = (
    "host_pageable_bytes",
    "host_peak_bytes",
    "transfer_seconds",
    "exposed_transfer_seconds",
)


def told(profile, *besides):
    """Return the events without what only a model can tell, times rounded to a picosecond."""
    return [
        event._replace(
            **{
                "start_seconds": round(event.start_seconds, 12),
                "seconds": round(event.seconds, 12),
                **dict.fromkeys((*NOT_TOLD, *besides), 0),
            },
        )
        for event in profile.events
    ]


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_a_gpu_is_read_event_for_event_as_the_model_tells(family, mode):
    """Kinds, bytes, peaks, pinned memory, streams and seconds; parts where no hook acts inside a component."""
    inside = () if mode.name in ("resident", "model") else ("inside",)
    measured = traced_as(measured_reader, family, mode, steps=2)
    predicted = traced_as(None, family, mode, steps=2)
    assert (measured.source, predicted.source) == ("measured", "predicted")
    assert told(measured, *inside) == told(predicted, *inside)
    for total in ("peak_allocated_bytes", "peak_reserved_bytes", "host_pinned_bytes"):
        assert getattr(measured.totals, total) == getattr(predicted.totals, total)
    # The resident set of the process holds torch itself; the model counts tensors alone.
    assert min(event.host_pageable_bytes for event in measured.events) > 100 * MIB
    bills = [[each for each in one.bill if each.what == "weights"] for one in (measured, predicted)]
    assert bills[0] == bills[1]


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


def test_values_that_python_reads_off_a_gpu_are_told_and_torch_is_left_as_it_was():
    """A class that once had a `__getitem__` of its own would take no numbers for a legacy tensor any more."""
    told, number = [], torch.tensor(2).as_subclass(OnGpu)
    with Patches() as patches:
        watch_methods(patches, (torch.Tensor,), lambda *copy: told.append(copy))
        read = [number.item(), bool(number), int(number), [7, 8, 9][number], number.tolist()]
    assert read == [2, True, 2, 9, 2]
    assert told == [("cuda", "cpu", 8)] * 5
    assert torch.Tensor([torch.tensor(0.5)]).tolist() == [0.5]


def test_groups_on_several_streams_are_told_by_component():
    """The UNet and the VAE each have a stream of their own, and both are in use in one call.

    The scheduler indexes by a tensor, a copy inside C++ that only a model tells: just moves are compared.
    """
    mode = Mode(name="group-leaf", stream=True)
    measured, predicted = (
        traced_as(reader, "sd15", mode, calls=1, steps=2) for reader in (measured_reader, None)
    )
    moves = [
        [
            event._replace(ordinal=0)
            for event in told(one, "inside", "start_seconds", "lead_peak_bytes")
            if event.kind in ("onload", "offload")
        ]
        for one in (measured, predicted)
    ]
    assert moves[0] == moves[1]
    sent = Counter(event.component for event in measured.events if event.kind == "onload")
    groups = {
        name: {event.group for event in measured.events if event.component == name} - {""}
        for name in sent
    }
    assert set(sent) == {"unet", "vae"}
    assert all(len(of_component) > 20 for of_component in groups.values())


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("flux", Mode(name="model")),
        ("wan", Mode(name="group-leaf", stream=True)),
    ],
)
def test_a_trace_allocates_nothing_on_the_gpu_and_lets_peaks_start_anew(family, mode):
    """The profile tells the peaks of an untraced run, and the cache is that of one."""
    said = []
    for traced in (True, False):
        with VirtualGPU("rtx-4090", replay=False):
            pipe, call = tiny(family)
            if traced:
                with Trace(pipe, {}, measured_reader) as t:
                    enable_mode(pipe, mode)
                    pipe(num_inference_steps=2, **call)
                assert torch.cuda.max_memory_allocated() == torch.cuda.memory_allocated()
                assert torch.cuda.max_memory_reserved() == torch.cuda.memory_reserved()
                totals = t.profile.totals
                peaks = totals.peak_allocated_bytes, totals.peak_reserved_bytes
            else:
                enable_mode(pipe, mode)
                pipe(num_inference_steps=2, **call)
                peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            said.append((peaks, torch.cuda.memory_stats()["allocation.all.allocated"]))
    assert said[0] == said[1]


def test_peaks_are_those_of_the_user_while_the_trace_runs():
    """A reset by the user begins the user's peaks anew, and takes none from the trace."""
    with VirtualGPU("rtx-4090"), Patches() as patches:
        watch = Peaks()
        watch.watch(patches)
        torch.empty(8 * MIB, dtype=torch.uint8, device="cuda")
        watch.take()
        kept = torch.empty(2 * MIB, dtype=torch.uint8, device="cuda")
        assert torch.cuda.max_memory_allocated() == 8 * MIB
        torch.cuda.reset_peak_memory_stats("cuda")
        assert torch.cuda.max_memory_allocated(0) == kept.numel()
        torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        assert torch.cuda.max_memory_allocated() == 6 * MIB
        assert watch.take().peak_bytes == 6 * MIB
        torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        assert watch.take().peak_bytes == 7 * MIB


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_a_plan_from_a_measured_run_is_the_plan_from_a_predicted_one(family):
    """The GPU's record is the model's, and a measurement has no error band."""
    measured, predicted = (
        traced_as(reader, family, Mode(name="model"), steps=3) for reader in (measured_reader, None)
    )
    predicted = dataclasses.replace(predicted, error_band=0.0)
    measured = dataclasses.replace(measured, gpu=predicted.gpu)
    context = predicted.gpu.context_bytes + predicted.gpu.slack_bytes
    smallest = [plan_offload(one, 1 << 40).smallest for one in (measured, predicted)]
    assert smallest[0].budget_bytes == smallest[1].budget_bytes
    assert smallest[0].plan.inside  # it splits components, which takes knowing their parts
    least = smallest[0].budget_bytes
    whole = context + predicted.totals.peak_allocated_bytes
    for budget in {least, (least + whole) // 2, whole, whole + 8 * MIB}:
        for objective in ("bytes", "seconds"):
            ours, theirs = (
                plan_offload(one, budget, objective=objective) for one in (measured, predicted)
            )
            assert ours.placements == theirs.placements
            assert ours.inside == theirs.inside
            assert ours.moves == theirs.moves
            assert ours.predicted.peak_allocated_bytes == theirs.predicted.peak_allocated_bytes
            assert ours.predicted.seconds == pytest.approx(theirs.predicted.seconds, rel=1e-3)


def test_a_run_that_copied_nothing_back_is_planned_at_the_rate_of_its_gpu():
    """Everything was on the GPU: what it would take to bring weights home is nowhere in the run."""
    measured, predicted = (traced_as(reader, "sdxl", Mode()) for reader in (measured_reader, None))
    assert measured.gpu.d2h_bytes_per_second == 0
    assert link_of(measured).back(10**9) == link_of(predicted).back(10**9)
    unknown = dataclasses.replace(measured, gpu=dataclasses.replace(measured.gpu, name="A GPU"))
    assert link_of(unknown) is None


def test_later_forwards_are_what_the_second_one_did():
    """Three steps of two calls: the first forward of six makes the workspaces, all others are alike."""
    profile = traced_as(measured_reader, "flux", Mode())
    exits = [
        event.inside
        for event in profile.events
        if (event.kind, event.component) == ("exit", "transformer")
    ]
    assert exits == [0, 1, 1, 1, 1, 1]
    assert len(profile.insides) == 2


def test_parts_are_read_where_torch_records_for_somebody_else():
    """That recording goes on, and every part's memory and time is what our own would have told."""
    read, recorded = (
        traced_as(measured_reader, "sdxl", Mode(), recorded=theirs) for theirs in (True, False)
    )
    assert read.insides == recorded.insides
    assert told(read) == told(recorded)


def test_a_recording_that_does_not_add_up_is_no_longer_asked_for(monkeypatch):
    """One forward is lost to it, and the next ones are read."""
    exits = []
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(BlockReplay, "check", _does_not_add_up)
        profile = traced_as(measured_reader, "flux", Mode())
        visits = [inside.visits for inside in profile.insides]
        exits.append(
            [
                visits[event.inside] if event.inside >= 0 else None
                for event in profile.events
                if (event.kind, event.component) == ("exit", "transformer")
            ]
        )
    first, *later = exits[0]
    assert first != later[0]
    assert exits[1] == [None, *later]


def _does_not_add_up(*_):
    raise DoesNotAddUpError("a test")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupt_at_a_part_that_is_looked_at_leaves_nothing(error, monkeypatch):
    """It comes in the middle of the first forward, with the hook at the parts in place."""

    def broken(*_, **__):
        raise error("stopped")

    call_impl, empty_cache = torch.nn.Module._call_impl, torch.cuda.empty_cache
    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        pipe.to("cuda")
        monkeypatch.setattr(pipe.transformer.transformer_blocks[1], "forward", broken)
        tracing = Trace(pipe, {}, measured_reader)
        with pytest.raises(error), tracing:
            pipe(num_inference_steps=1, **call)
    assert torch.nn.Module._call_impl is call_impl
    assert torch.cuda.empty_cache is empty_cache
    assert not tracing.profile.complete
    assert tracing.profile.failure.component == "transformer"


def test_running_out_of_memory_on_a_gpu_is_told_as_the_model_tells_it():
    """The GPU's own words say less exactly what was asked for; who held what is the same."""
    failures = []
    for reader in (measured_reader, None):
        with VirtualGPU("rtx-4090", capacity="1GiB", replay=False):
            pipe, call = tiny("sd15")
            enable_mode(pipe, Mode(name="model"))
            tracing = Trace(pipe, {}, reader)
            with pytest.raises(torch.cuda.OutOfMemoryError), tracing:
                pipe(num_inference_steps=1, **{**call, "height": 4096, "width": 4096})
            failures.append(tracing.profile.failure)
    measured, predicted = failures
    weights = [[each for each in one.holders if each.what == "weights"] for one in failures]
    assert weights[0] == weights[1] != []
    assert sum(each.bytes for each in measured.holders) == measured.allocated_bytes
    assert (measured.component, measured.doing, measured.phase, measured.step) == (
        predicted.component,
        predicted.doing,
        predicted.phase,
        predicted.step,
    )
    assert measured.requested_bytes == predicted.requested_bytes > 0
