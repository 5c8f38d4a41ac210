"""Applying and undoing a plan that is interrupted at any line: the pipe is as it was, or undone again is.

`pytest tests/applying/test_interrupted_plans.py --interrupts 0 -rP` does it at every line, and prints how often.
"""

from __future__ import annotations

import pytest
from interrupting import VIRTUAL_GPU, Interrupter, interrupt_everywhere, some_lines
from placed_worlds import nets, place, state_of

from profiler.applying.apply import put
from profiler.placements.grouped import Grouped
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.virtual import VirtualGPU

MOST_UNGUARDED = (
    8  # lines at the beginning of `undo`, and of what it calls, before anything is changed
)

MIXED = {
    "sequence": ["encoder"],
    "sticky": True,
    "swaps": {"encoder": "pinned"},
    "inside": {"transformer": Streamed(1), "vae": Grouped(stream=True)},
}
SPLIT = {
    "sequence": ["encoder"],
    "inside": {"transformer": Sequential(), "vae": Grouped(blocks=1, disk=True)},
}


def somewhere_else(pipe):
    pipe.vae.to("cuda")


def stock_offload(pipe):
    pipe.enable_model_cpu_offload()


@pytest.fixture(params=[MIXED, SPLIT], ids=["mixed", "split"])
def world(request, tmp_path):
    """Return how to apply a plan to a pipe, and whether that pipe, the folder and pinned memory are as before."""
    with VirtualGPU() as gpu:
        pipe = nets()
        plan = place(nets(), **request.param)

        def apply_it():
            return put(plan, pipe, folder=tmp_path)

        def is_as_before(before):
            return state_of(pipe) == before and not any(tmp_path.iterdir())

        yield pipe, apply_it, lambda before: is_as_before(before) and not gpu.host.pinned_bytes


@pytest.mark.parametrize("prepare", [somewhere_else, stock_offload])
def test_an_apply_that_is_interrupted_leaves_the_pipe_as_it_was(interrupts, world, prepare):
    pipe, apply_it, is_as_before = world
    prepare(pipe)
    before, done = state_of(pipe), []

    def undo():
        while done:
            done.pop().undo()

    needed = interrupt_everywhere(
        lambda: done.append(apply_it()),
        lambda: is_as_before(before),
        undo,
        most=interrupts,
        but=VIRTUAL_GPU,
    )
    assert needed == []


@pytest.mark.parametrize("prepare", [somewhere_else, stock_offload])
def test_an_undo_that_is_interrupted_can_be_repeated(interrupts, world, prepare):
    pipe, apply_it, is_as_before = world
    prepare(pipe)
    before, needed = state_of(pipe), []
    count = Interrupter(but=VIRTUAL_GPU).run(apply_it().undo).lines
    for at in some_lines(count, interrupts):
        applied = apply_it()
        Interrupter(at, but=VIRTUAL_GPU).run(applied.undo)
        if not is_as_before(before):
            needed.append(at)
        applied.undo()
        assert is_as_before(before), f"interrupted at line {at} of {count}"
    print(f"of {count} lines, a second undo was needed after an interrupt at {needed}")
    assert len(needed) <= MOST_UNGUARDED
