"""Torch's own memory history of a traced run, on a virtual GPU that answers torch's private functions.

Each test of the tracer runs it as on a real GPU (`measured_reader`), where nothing but those functions tells anything.
"""

from __future__ import annotations

import dataclasses
import pickle
from contextlib import suppress

import pytest
import torch
from gpu_worlds import measured_reader, tiny
from tiny_folder import write_tiny_pipeline
from tiny_pipelines import Act, Script, build
from torch.cuda import _memory_viz, memory
from typer.testing import CliRunner

from profiler import InputError, Profile, profile_calls, profile_pipeline, trace
from profiler.cli.app import app
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.record.memory_history import BEFORE
from profiler.tracing import Call, Trace
from profiler.units import MIB
from profiler.virtual import VirtualGPU

MODES = [
    ("sdxl", Mode()),
    ("sdxl", Mode(name="model")),
    ("flux", Mode(name="sequential")),
    ("flux", Mode(name="group-leaf", stream=True, record_stream=True)),
    ("wan", Mode(name="group-block")),
]
RECORDED = ("events", "totals", "bill", "insides", "components", "failure")


def traced(
    family, mode, *, reader=measured_reader, placed_before=False, memory_history=True, steps=3
):
    """Return the profile of two calls."""
    with VirtualGPU("rtx-4090", replay=reader is None):
        pipe, call = tiny(family)
        if placed_before:
            enable_mode(pipe, mode)
        with Trace(pipe, {}, reader, memory_history=memory_history) as t:
            if not placed_before:
                enable_mode(pipe, mode)
            for _ in range(2):
                pipe(num_inference_steps=steps, **call)
        assert not torch._C._cuda_isHistoryEnabled()
        assert memory._get_memory_metadata() == ""
        return t.profile


def weights(items):
    return {name: nbytes for name, what, nbytes in items if what == "weights"}


@pytest.mark.parametrize("reader", [measured_reader, None])
@pytest.mark.parametrize(("family", "mode"), MODES)
def test_the_blocks_at_the_peak_are_the_peak_and_the_bill(family, mode, reader):
    """To the byte; and the run is what it is without a recording, also where forwards are replayed."""
    profile = traced(family, mode, reader=reader)
    history = profile.memory_history
    assert history.note == "torch's recording was off; the trace turned it on and off again"
    assert history.blocks["bytes"].sum() == profile.totals.peak_allocated_bytes
    assert history.by_component["bytes"].sum() == profile.totals.peak_allocated_bytes
    sums = history.by_component[["component", "what", "bytes"]].itertuples(index=False)
    bill = [(item.holder, item.what, item.bytes) for item in profile.bill]
    assert weights(sums) == weights(bill)
    if reader is None:
        plain = traced(family, mode, reader=reader, memory_history=False)
        assert plain.memory_history is None
        for field in RECORDED:
            assert getattr(plain, field) == getattr(profile, field)


def test_weights_from_before_the_trace_are_found_by_their_addresses():
    """Which the peak breakdown counts by another way; embeddings that the user had on the GPU are nobody's."""
    profile = traced("sdxl", Mode(), placed_before=True)
    blocks = profile.memory_history.blocks
    before = blocks[blocks["phase"] == BEFORE]
    by_name = before.groupby(["component", "what"])["bytes"].sum().to_dict()
    bill = weights((item.holder, item.what, item.bytes) for item in profile.bill)
    assert set(bill) == {"unet", "vae"}
    assert by_name == {(name, "weights"): size for name, size in bill.items()} | {
        ("", "other"): 11264
    }
    assert blocks["bytes"].sum() == profile.totals.peak_allocated_bytes


def test_every_entry_says_what_it_was_made_for():
    """A call of two steps under model offload."""
    history = traced("sdxl", Mode(name="model"), steps=2).memory_history
    (entries,) = history.snapshot["device_traces"]
    said = [entry["user_metadata"] for entry in entries if entry["action"] == "alloc"]
    order = list(dict.fromkeys(said))
    assert order[:6] == [
        "pipeline: other, call 0, encode",
        "unet: weights, call 0, denoise step 0",
        "unet: activations, call 0, denoise step 0",
        "pipeline: other, call 0, denoise step 0",
        "pipeline: other, call 0, denoise step 1",
        "unet: activations, call 0, denoise step 1",
    ]
    assert set(order[6:]) >= {
        "unet: weights, call 1, denoise step 0",
        "unet: activations, call 1, denoise step 1",
    }
    assert "unet" in history._repr_html_()
    made = history.blocks.groupby(["component", "what", "call", "phase", "step"]).size()
    assert ("unet", "weights", 0, "denoise", 0) in made.index


@pytest.mark.parametrize(("family", "mode"), MODES)
def test_a_recording_replayed_makes_torch_s_own_figures_at_every_entry(family, mode):
    """By sums alone: what was asked for, in blocks of 512 bytes. Nothing here leaves a rest that is not split off."""
    with VirtualGPU("rtx-4090") as gpu:
        memory._record_memory_history(context=None)
        own = []
        note = gpu.allocator.note

        def noted(*args):
            note(*args)
            own.append(
                (torch.cuda.memory_allocated(), active_bytes(gpu), torch.cuda.memory_reserved())
            )

        gpu.allocator.note = gpu.allocator.segments.note = noted
        pipe, call = tiny(family)
        enable_mode(pipe, mode)
        pipe(num_inference_steps=3, **call)
        (entries,) = memory._snapshot()["device_traces"]
        memory._record_memory_history(enabled=None)
    counts = {
        "alloc": (1, 1, 0),
        "free_requested": (-1, 0, 0),
        "free_completed": (0, -1, 0),
        "segment_alloc": (0, 0, 1),
        "segment_free": (0, 0, -1),
    }
    figures = (0, 0, 0)
    for entry, told in zip(entries, own, strict=False):
        size = -(-entry["size"] // 512) * 512
        change = counts.get(entry["action"], (0, 0, 0))
        figures = tuple(now + sign * size for now, sign in zip(figures, change, strict=True))
        assert figures == told, entry
    assert len(entries) > 1000


def active_bytes(gpu):
    return gpu.allocator.all.active_bytes.current


def test_running_out_of_memory_is_in_the_history():
    with VirtualGPU("rtx-4090", capacity="1GiB", replay=False) as gpu:
        pipe, call = tiny("sd15")
        enable_mode(pipe, Mode(name="model"))
        memory._set_memory_metadata("mine")
        tracing = Trace(pipe, {}, measured_reader, memory_history=True)
        with pytest.raises(torch.cuda.OutOfMemoryError), tracing:
            pipe(num_inference_steps=1, **{**call, "height": 4096, "width": 4096})
        assert memory._get_memory_metadata() == "mine"
        assert not torch._C._cuda_isHistoryEnabled()
        limit = gpu.allocator.segments.limit_bytes
    profile = tracing.profile
    (entries,) = profile.memory_history.snapshot["device_traces"]
    (failed,) = [entry for entry in entries if entry["action"] == "oom"]
    failure = profile.failure
    assert failed["user_metadata"] == "unet: activations, call 0, denoise step 0"
    assert 0 < failed["device_free"] < limit
    assert failure.requested_bytes - failed["size"] < 2 * MIB  # a segment is whole steps of 2 MiB
    assert profile.memory_history.blocks["bytes"].sum() == profile.totals.peak_allocated_bytes


def test_an_interrupt_leaves_torch_as_it_was():
    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        tracing = Trace(pipe, {}, measured_reader, memory_history=True)

        def stop(*_, **__):
            raise KeyboardInterrupt

        with suppress(KeyboardInterrupt), tracing:
            pipe.to("cuda")
            pipe(num_inference_steps=1, callback_on_step_end=stop, **call)
        assert not torch._C._cuda_isHistoryEnabled()
        assert memory._get_memory_metadata() == ""
        assert not tracing.profile.complete
        history = tracing.profile.memory_history
        assert history.blocks["bytes"].sum() == tracing.profile.totals.peak_allocated_bytes


def test_a_user_s_own_recording_goes_on():
    """With its earlier entries, its settings, and the string that the user had set, also one set inside."""
    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        memory._record_memory_history(context=None, max_entries=1 << 20)
        memory._set_memory_metadata("mine")
        earlier = torch.empty(5000, device="cuda")
        with Trace(pipe, {}, measured_reader, memory_history=True) as t:
            pipe.to("cuda")
            pipe(num_inference_steps=1, **call)
            memory._set_memory_metadata("mine, later")
            del earlier
        assert memory._get_memory_metadata() == "mine, later"
        assert torch._C._cuda_isHistoryEnabled()
        later = torch.empty(6000, device="cuda")
        (entries,) = memory._snapshot()["device_traces"]
        sizes = [(one["user_metadata"], one["size"]) for one in entries if one["action"] == "alloc"]
        assert sizes[0] == ("mine", 20_000)
        assert sizes[-1] == ("mine, later", 24_000)
        assert later.is_cuda
    history = t.profile.memory_history
    assert history.note.startswith("torch was recording before the trace and still is")
    assert history.blocks["bytes"].sum() == t.profile.totals.peak_allocated_bytes
    assert 20_480 in set(history.blocks["bytes"])  # the user's, from before


@pytest.mark.parametrize(
    "settings",
    [{"max_entries": 50}, {"enabled": "state"}, {"skip_actions": ["free_requested"]}],
)
def test_a_recording_that_forgets_is_no_truth_about_the_peak(settings):
    """The snapshot is there as torch has it; whoever asks for the blocks is told why there are none."""
    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        memory._record_memory_history(context=None, **settings)
        with Trace(pipe, {}, measured_reader, memory_history=True) as t:
            pipe.to("cuda")
            pipe(num_inference_steps=1, **call)
    history = t.profile.memory_history
    assert history.snapshot["device_traces"][0]
    with pytest.raises(InputError, match="max_entries"):
        _ = history.blocks
    with pytest.raises(InputError, match="max_entries"):
        _ = history.by_component
    assert "max_entries" in repr(history)
    assert "max_entries" in history._repr_html_()


def test_a_trace_in_a_trace_leaves_the_outer_one_its_labels():
    with VirtualGPU("rtx-4090", replay=False):
        pipe, call = tiny("flux")
        with trace(pipe, memory_history=True) as outer:
            pipe.to("cuda")
            with trace(pipe, memory_history=True) as inner:
                pipe(num_inference_steps=1, **call)
            pipe(num_inference_steps=1, **call)
        assert not torch._C._cuda_isHistoryEnabled()
    assert inner.profile.memory_history.note.startswith("torch was recording")
    assert outer.profile.memory_history.note.startswith("torch's recording was off")
    for one in (inner, outer):
        total = one.profile.totals.peak_allocated_bytes
        assert one.profile.memory_history.blocks["bytes"].sum() == total


def test_torch_s_own_tools_read_the_pickle(tmp_path):
    path = tmp_path / "history.pickle"
    history = traced("flux", Mode(name="model")).memory_history
    history.save(path)
    snapshot = pickle.loads(path.read_bytes())
    assert snapshot == history.snapshot
    assert set(snapshot) == {
        "segments",
        "device_traces",
        "allocator_settings",
        "external_annotations",
    }
    keys = {"action", "addr", "size", "stream", "time_us", "frames", "compile_context"}
    keys |= {"user_metadata", "pool_id"}
    assert {frozenset(entry) for entry in snapshot["device_traces"][0]} == {frozenset(keys)}
    assert "<script" in _memory_viz.trace_plot(snapshot)
    assert "total_reserved" in _memory_viz.segsum(snapshot)  # which checks the sums
    assert "cudaMalloc" in _memory_viz.trace(snapshot)
    lines = []
    _memory_viz.memory(snapshot, format_flamegraph=lines.append)
    assert "active_allocated" in lines[0]


def test_a_trace_of_nothing_has_tables_of_nothing():
    with VirtualGPU("rtx-4090"):
        pipe, _ = tiny("flux")
        held = torch.cuda.memory_allocated()
        with trace(pipe, memory_history=True) as t:
            pass
    history = t.profile.memory_history
    assert history.blocks["bytes"].sum() == held
    emptied = dataclasses.replace(history, held=())
    assert emptied.blocks.nlargest(1, "bytes").empty
    assert emptied.by_component["bytes"].sum() == 0
    assert "0 blocks" in repr(emptied)
    assert "0 B at the peak" in emptied._repr_html_()


def test_a_history_cannot_be_half_written(tmp_path):
    history = traced("flux", Mode(), steps=1).memory_history
    with pytest.raises(InputError, match="does not exist"):
        history.save(tmp_path / "nowhere" / "history.pickle")
    history.snapshot["unpicklable"] = lambda: None
    with pytest.raises(Exception, match="pickle"):
        history.save(tmp_path / "history.pickle")
    assert not list(tmp_path.iterdir())


def test_a_saved_profile_has_no_history(tmp_path):
    profile = traced("flux", Mode(), steps=1)
    profile.save(tmp_path / "profile.parquet")
    loaded = Profile.load(tmp_path / "profile.parquet")
    assert loaded.memory_history is None
    assert loaded.events == profile.events


def test_a_twin_is_recorded_and_so_are_several_calls():
    script = Script({"a": (3000,), "b": (700, 90)}, (Act("run", "a", 5000, 100), Act("run", "b")))
    twin = profile_pipeline(build(script), gpu="rtx-4060", mode="resident", memory_history=True)
    sums = twin.memory_history.by_component.set_index(["component", "what"])["bytes"].to_dict()
    # Half precision: 6000, 1400 and 180 bytes in blocks of 512; three integers each.
    assert sums == {
        ("a", "weights"): 6144 + 512,
        ("a", "activations"): 5120,
        ("b", "weights"): 1536 + 512 + 512,
    }
    assert twin.totals.peak_allocated_bytes == sum(sums.values())
    both = profile_calls(
        build(script), Call(), Call(), gpu="rtx-4060", mode="model", memory_history=True
    )
    (entries,) = both.memory_history.snapshot["device_traces"]
    said = {entry["user_metadata"] for entry in entries}
    assert {"b: weights, call 0, encode", "a: activations, call 1, encode"} <= said
    assert not any("call 2" in text for text in said)


def test_a_rest_that_is_not_split_off_belongs_to_its_block():
    """Eleven tensors of 1,900,032 bytes leave 71,168 of 20 MiB to the last one, which the peak breakdown leaves out."""
    script = Script({"a": (950_000,) * 11}, (Act("run", "a"),))
    profile = profile_pipeline(build(script), gpu="rtx-4060", memory_history=True)
    (row,) = profile.memory_history.by_component.itertuples(index=False)
    assert tuple(row) == ("a", "weights", 12, 20 * MIB + 512, 11 * 1_900_000 + 24)
    assert profile.totals.peak_allocated_bytes == 20 * MIB + 512
    assert weights((one.holder, one.what, one.bytes) for one in profile.bill) == {
        "a": 20 * MIB + 512 - 71_168
    }


def test_the_command_writes_it(tmp_path, monkeypatch):
    write_tiny_pipeline(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    words = "profile ./tiny --steps 1 --height 64 --width 64 --memory-history history.pickle"
    done = CliRunner().invoke(app, words.split(), prog_name="vram")
    assert done.exit_code == 0, done.output
    snapshot = pickle.loads((tmp_path / "history.pickle").read_bytes())
    assert len(snapshot["device_traces"][0]) > 100
    done = CliRunner().invoke(app, [*words.split()[:-1], "no/history.pickle"], prog_name="vram")
    assert done.exit_code == 2


def test_another_allocator_has_no_history(monkeypatch):
    with VirtualGPU("rtx-4090"):
        pipe, _ = tiny("flux")
        monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
        with pytest.raises(InputError, match="cudaMallocAsync"), trace(pipe, memory_history=True):
            pass
        monkeypatch.undo()
