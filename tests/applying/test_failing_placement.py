"""A library that fails while `apply` or the printed code puts a plan into effect: the pipe keeps its parts."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from interrupting import PACKAGE, Failing
from placed_worlds import nets, place, state_of, ways_on_a_gpu

from profiler.applying.apply import put
from profiler.placements.streamed import Streamed
from profiler.virtual import VirtualGPU

PRINTED = "printed plan"
SLICED = {
    "sequence": ["encoder", "transformer"],
    "excluded": ["vae"],
    "inside": {"vae": Streamed(1)},
}
WAYS = dict([*ways_on_a_gpu(nets()), ("resident and streamed", SLICED)])


@pytest.fixture(params=WAYS)
def plan(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return place(nets(), **WAYS[request.param])


@pytest.fixture
def codes(plan):
    return compile(plan.to_code(), PRINTED, "exec")


def components(pipe):
    return {name: id(part) for name, part in pipe.components.items()}


def test_without_an_accelerator_the_printed_code_leaves_every_component(codes):
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    pipe = nets()
    before = components(pipe)
    # Some calls of diffusers look for the GPU in the pipeline's call only.
    with suppress(RuntimeError, AssertionError, ValueError):
        exec(codes, {"pipe": pipe})
    assert components(pipe) == before


def fail_everywhere(file, function, act, check):
    """Let each call fail that some code makes; check each time."""
    at, failed = 0, True
    while failed:
        at += 1
        failed = Failing(at, file, function).run(act)
        check(f"call {at} failed")
    assert at > 1


def test_a_call_that_fails_in_the_printed_code_leaves_every_component(codes):
    pipes = []

    def place_another():
        pipes.append((pipe := nets(), components(pipe)))
        exec(codes, {"pipe": pipe})

    def check(which):
        pipe, before = pipes.pop()
        assert components(pipe) == before, which

    with VirtualGPU(replay=False):
        fail_everywhere(PRINTED, "<module>", place_another, check)


def test_a_call_that_fails_in_apply_leaves_the_pipe_as_it_was(plan, tmp_path):
    with VirtualGPU(replay=False) as gpu:
        pipe, applied = nets(), []
        before = state_of(pipe), components(pipe)

        def check(which):
            while applied:
                applied.pop().undo()
            assert (state_of(pipe), components(pipe)) == before, which
            assert (list(tmp_path.iterdir()), gpu.host.pinned_bytes) == ([], 0), which

        fail_everywhere(
            PACKAGE + "applying/apply.py",
            "_place",
            lambda: applied.append(put(plan, pipe, folder=tmp_path)),
            check,
        )
