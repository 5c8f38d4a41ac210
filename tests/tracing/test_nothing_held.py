"""A tracer holds nothing: what a traced script drops leaves the GPU, as it would without a trace."""

import gc
from contextlib import nullcontext, suppress
from weakref import ref

import pytest
import torch
from diffusers import DDIMScheduler
from gpu_worlds import measured_reader
from tiny_pipelines import Act, Script, TinyModel, build

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.planning import plan_offload
from profiler.tracing import Trace, trace
from profiler.units import GIB
from profiler.virtual import VirtualGPU

SCRIPT = Script(
    {"a": (100_000, 300), "b": (70_000,)},
    (Act("run", "a", scratch=2000, kept=600), Act("encode", "b"), Act("run", "b", kept=40)),
)
ONLY_B = Script(SCRIPT.components, (Act("encode", "b"), Act("run", "b", scratch=900)))
# Half precision, rounded up to 512 B each, and three int64.
A_BYTES, B_BYTES = 200_192 + 1024 + 512, 140_288 + 512
READERS = pytest.mark.parametrize("reader", [None, measured_reader])


@pytest.fixture(autouse=True, scope="module")
def _quick_collections():
    """What was there before is not looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def placed(mode="resident"):
    pipe = build(SCRIPT)
    enable_mode(pipe, Mode(name=mode))
    return pipe


def at_each_point(mode, reader, look, *, collected):
    """Return what is allocated, and whether the encoder lives, at each point of a script that drops its components."""
    seen = []
    with VirtualGPU("rtx-4090"):
        pipe = placed(mode)
        encoder = ref(pipe.a)

        def note():
            if collected:
                gc.collect()
            torch.cuda.empty_cache()
            seen.append((torch.cuda.memory_allocated(), encoder() is not None))

        tracing = Trace(pipe, {}, reader) if look else nullcontext()
        with tracing:
            pipe()
            note()
            pipe.remove_all_hooks()
            pipe.a = None
            note()
            pipe.script = ONLY_B
            pipe.to("cuda")()
            pipe.b = None
            note()
        note()
    return seen


@READERS
@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_what_is_dropped_inside_a_trace_goes_when_it_goes_without_one(mode, collected, reader):
    untraced = at_each_point(mode, None, False, collected=collected)
    assert at_each_point(mode, reader, True, collected=collected) == untraced
    if collected:
        assert untraced[-1] == (0, False)


@READERS
def test_a_profile_says_when_a_dropped_component_left_the_gpu(reader):
    with VirtualGPU("rtx-4090"):
        pipe = placed()
        with Trace(pipe, {}, reader) as tracing:
            pipe()
            pipe.a = None
            gc.collect()
            pipe.script = ONLY_B
            pipe()
    profile = tracing.profile
    (gone,) = [event for event in profile.events if event.kind == "offload"]
    told = (gone.component, gone.call, gone.bytes, gone.from_device, gone.to_device, gone.asked_by)
    assert told == ("a", -1, 0, "cuda:0", "meta", "script")
    assert (gone.before_bytes, gone.after_bytes, gone.resident_bytes) == (
        A_BYTES + B_BYTES,
        B_BYTES,
        0,
    )
    on_gpu = profile.residency.groupby("component", sort=False)["device_bytes"].agg(list)
    assert on_gpu.to_dict() == {"a": [A_BYTES, 0], "b": [B_BYTES]}
    assert profile.totals.d2h_bytes == 0


@READERS
def test_a_component_that_goes_at_the_end_of_a_trace_is_told(reader):
    with VirtualGPU("rtx-4090"):
        pipe = placed()
        with Trace(pipe, {}, reader) as tracing:
            pipe()
            pipe.b = None
            gc.collect()
    assert tracing.profile.events[-1][2:4] == ("offload", "b")


@READERS
def test_an_error_that_the_script_handled_is_not_held_with_all_its_frames(reader, monkeypatch):
    frames = []

    def broken_at_first(model, scratch, kept):
        held = torch.ones(1 << 20, device="cuda")
        frames.append(ref(held))
        if len(frames) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return TinyModel.forward(model, scratch, kept)

    monkeypatch.setattr(TinyModel, "encode", broken_at_first)
    with VirtualGPU("rtx-4090"):
        pipe = placed()
        with Trace(pipe, {}, reader) as tracing:
            with suppress(torch.cuda.OutOfMemoryError):
                pipe()
            assert frames[0]() is None
            assert torch.cuda.memory_allocated() == A_BYTES + B_BYTES
            pipe()
    assert (tracing.profile.complete, tracing.profile.failure) == (True, None)


@READERS
def test_a_pipe_and_all_it_has_may_go_before_its_trace_ends(reader):
    with VirtualGPU("rtx-4090"):
        pipe = placed("model")
        pipe.scheduler = DDIMScheduler()
        parts = [ref(part) for part in (pipe, pipe.a, pipe.b, pipe.scheduler)]
        with Trace(pipe, {}, reader) as tracing:
            pipe()
            del pipe
            gc.collect()
            assert [part() for part in parts] == [None] * 4
    profile = tracing.profile
    assert (profile.mode, profile.pipeline_class, profile.complete) == (
        "model",
        "TinyPipeline",
        True,
    )
    assert profile.sequence == ("a", "b", "c", "d")


@READERS
def test_a_finished_trace_and_its_profile_hold_no_part_of_the_pipe(reader):
    with VirtualGPU("rtx-4090"):
        pipe = placed("model")
        parts = [ref(part) for part in (pipe, pipe.a, pipe.b)]
        with Trace(pipe, {}, reader) as tracing:
            pipe()
        plan_offload(tracing.profile, 8 * GIB)
        del pipe
        gc.collect()
        assert [part() for part in parts] == [None] * 3
        assert torch.cuda.memory_allocated() == 0
    assert tracing.profile.findings is not None


def test_a_scheduler_that_is_replaced_goes():
    with VirtualGPU("rtx-4090"):
        pipe = placed()
        pipe.scheduler = DDIMScheduler()
        before = ref(pipe.scheduler)
        with trace(pipe):
            pipe()
            pipe.scheduler = DDIMScheduler()
            gc.collect()
            assert before() is None


@READERS
def test_a_component_that_is_replaced_goes_and_the_profile_says_that_it_does_not_know_the_new_one(
    reader,
):
    with VirtualGPU("rtx-4090"):
        pipe = placed()
        before = ref(pipe.a)
        with Trace(pipe, {}, reader) as tracing:
            pipe()
            pipe.a = build(SCRIPT).a
            gc.collect()
            assert before() is None
            pipe.to("cuda")()
    profile = tracing.profile
    (gone,) = [event for event in profile.events if event.kind == "offload"]
    assert (gone.component, gone.resident_bytes) == ("a", 0)
    assert "a came to the pipe inside the trace" in profile.assumptions[-1].what
