"""The tracer sees what happens and leaves nothing behind: after a call, an exception inside it, and Ctrl-C."""

import pytest
import torch
from gpu_worlds import measured_reader
from pipeline_states import state_of
from tiny_pipelines import Act, Script, build
from torch import nn

from profiler.errors import InputError, ProfilerError
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.pipelines import load_pipeline
from profiler.tracing import Trace, profile_pipeline, trace
from profiler.units import GIB
from profiler.virtual import VirtualGPU

SCRIPT = Script(
    {"a": (100, 300), "b": (700,)},
    (
        Act("run", "a", scratch=2000, kept=600),
        Act("cast", "b", dtype="float32"),
        Act("encode", "b"),
    ),
)


def placed(mode):
    pipe = build(SCRIPT)
    enable_mode(pipe, Mode(name=mode))
    return pipe


@pytest.mark.parametrize("reader", [None, measured_reader])
@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_a_traced_call_leaves_the_pipe_as_an_untraced_one_does(mode, reader):
    with VirtualGPU("rtx-4090"):
        traced, untraced = placed(mode), placed(mode)
        untraced()
        with Trace(traced, {}, reader):
            traced()
        assert state_of(traced) == state_of(untraced)


@pytest.mark.parametrize("reader", [None, measured_reader])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_call_leaves_the_pipe_as_without_a_tracer_and_keeps_what_was_seen(
    error, reader, monkeypatch
):
    def broken(*_):
        raise error("stopped")

    with VirtualGPU("rtx-4090"):
        traced, untraced = placed("model"), placed("model")
        for pipe in (traced, untraced):
            monkeypatch.setattr(pipe.b, "encode", broken, raising=False)
        with pytest.raises(error):
            untraced()
        tracing = Trace(traced, {}, reader)
        with pytest.raises(error), tracing:
            traced()
        assert state_of(traced) == state_of(untraced)
    profile = tracing.profile
    assert (profile.complete, profile.error) == (False, f"{error.__name__} in b: stopped")
    assert [event.kind for event in profile.events][:4] == ["begin", "enter", "onload", "exit"]


def test_peak_statistics_are_as_if_nobody_had_looked():
    with VirtualGPU("rtx-4090"):
        peaks = []
        for look in (False, True):
            pipe = placed("model")
            torch.cuda.reset_peak_memory_stats()
            if look:
                with trace(pipe):
                    pipe()
            else:
                pipe()
            peaks.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))
        assert peaks[0] == peaks[1]


def test_what_was_before_a_trace_is_no_part_of_it_and_is_there_afterwards():
    with VirtualGPU("rtx-4090"):
        pipe = placed("model")
        torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        with trace(pipe) as tracing:
            pipe()
        totals = tracing.profile.totals
        highest = max(max(e.lead_peak_bytes, e.peak_bytes) for e in tracing.profile.events)
        assert totals.peak_allocated_bytes == highest < 1 << 20
        assert torch.cuda.max_memory_allocated() == 1 << 30


def test_a_smaller_convolution_after_the_peak_does_not_narrow_the_band():
    """Under sequential offload every layer is a peak of its own; the band speaks of the highest.

    Of a size that no table holds, so that a rule says what convolutions take.
    """
    with VirtualGPU("rtx-3090"):
        pipe = load_pipeline("sdxl-base", dtype="float16")
        size = {"height": 1032, "width": 1032}
        profile = profile_pipeline(pipe, mode="sequential", num_inference_steps=1, **size)
    workspace = sum(item.bytes for item in profile.bill if item.what == "workspace")
    # The upsampler: a copy of the input, 256 channels of floats, beside cuBLAS's workspace.
    assert workspace > 256 * 1032 * 1032 * 4
    assert min(profile.error_band, profile.error_band_below) > 0.2


def test_a_trace_has_no_profile_before_its_block_ends():
    with VirtualGPU("rtx-4090"):
        pipe = placed("model")
        with trace(pipe) as tracing, pytest.raises(ProfilerError, match="when the"):
            _ = tracing.profile


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, tracing needs no virtual one")
def test_tracing_without_any_gpu_says_what_to_do():
    with pytest.raises(InputError, match="profile_pipeline"), trace(build(SCRIPT)):
        pass


def test_several_calls_are_told_apart():
    with VirtualGPU("rtx-4090"):
        pipe = placed("model")
        with trace(pipe) as tracing:
            pipe()
            pipe()
    calls = [event.call for event in tracing.profile.events if event.kind in ("begin", "end")]
    assert calls == [0, 0, 1, 1]


def stock_sdxl():
    """Return the profile of two stock calls of SDXL under model offload."""
    with VirtualGPU("rtx-4090"):
        pipe = load_pipeline("sdxl-base", dtype="float16")
        pipe.set_progress_bar_config(disable=True)
        enable_mode(pipe, Mode(name="model"))
        with trace(pipe) as tracing:
            for _ in range(2):
                pipe("a cat", num_inference_steps=2)
    return tracing.profile


def test_stock_sdxl_moves_six_and_a_half_gib_each_way_in_its_second_call():
    events = [event for event in stock_sdxl().events if event.call == 1]
    moved = {
        place: sum(
            event.bytes for event in events if event.to_device == place and event.kind != "cast"
        )
        for place in ("cuda:0", "cpu")
    }
    assert {place: round(nbytes / GIB, 2) for place, nbytes in moved.items()} == {
        "cuda:0": 6.62,
        "cpu": 6.47,
    }
    weights = [
        (event.kind, event.component, event.asked_by)
        for event in events
        if event.kind in ("onload", "offload", "cast")
    ]
    hook, end = "accelerate.CpuOffload", "pipeline.maybe_free_model_hooks"
    assert weights == [
        ("onload", "text_encoder", hook),
        ("offload", "text_encoder", hook),
        ("onload", "text_encoder_2", hook),
        ("offload", "text_encoder_2", hook),
        ("onload", "unet", hook),
        ("cast", "vae", "pipeline.upcast_vae"),
        ("offload", "unet", hook),
        ("onload", "vae", hook),
        ("cast", "vae", "module.to"),
        ("offload", "vae", end),
    ]


def test_a_run_that_does_not_fit_is_an_incomplete_profile_that_says_where():
    with VirtualGPU("rtx-4090", capacity="4GiB"):
        pipe = load_pipeline("sdxl-base", dtype="float16")
        profile = profile_pipeline(pipe, mode="model", num_inference_steps=2)
    assert not profile.complete
    assert (profile.seconds_band, profile.seconds_band_below) == (0, 0)  # it ended early
    assert profile.error.startswith(
        "OutOfMemoryError in unet: CUDA out of memory. Tried to allocate"
    )
    assert profile.events[-1].kind == "end"


def test_a_module_with_two_parents_moves_once():
    """As transformers 4 has T5's embeddings: one module in the model and in its encoder."""
    script = Script({"a": (1000, 500), "b": (400,)}, (Act("run", "a"), Act("run", "b")))
    with VirtualGPU("rtx-4060"):
        pipe = build(script)
        pipe.a.other = nn.Sequential(pipe.a.inner)
        pipe.enable_model_cpu_offload()
        with trace(pipe) as tracing:
            pipe()
    moved = [event.bytes for event in tracing.profile.events if event.kind == "onload"]
    assert moved == [part.bytes for part in tracing.profile.components]
