"""Entering and leaving that is interrupted at any line: torch and the pipe are as they were.

An exception is raised at lines of the package one after the other, as Ctrl-C would be raised between them. The first
line of a method that puts things back cannot be guarded from inside it; leaving once more is what is left then.
`pytest tests/tracing/test_interrupted.py --interrupts 0 -rP` does it at every line, and prints how often.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import left_behind
import pytest
from interrupting import VIRTUAL_GPU, interrupt_everywhere, press_ctrl_c
from placed_worlds import nets

from profiler.libraries import hooks as private
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.usefixtures("ctrl_c")

MOST_UNGUARDED = 4  # lines at the beginning of a method that puts back, and of what it calls


def torch_is_as_before():
    before = left_behind.snapshot()
    return lambda: not left_behind.changes(before, left_behind.snapshot())


@pytest.mark.parametrize("interrupt", [None, press_ctrl_c])
def test_a_virtual_gpu_that_is_interrupted_leaves_torch_as_it_was(interrupts, interrupt):
    gpu = VirtualGPU()

    def enter_and_leave():
        with gpu:
            pass

    needed = interrupt_everywhere(
        enter_and_leave,
        torch_is_as_before(),
        lambda: gpu.__exit__(None, None, None),
        most=interrupts,
        interrupt=interrupt,
    )
    assert len(needed) <= MOST_UNGUARDED


def parts_of(pipe):
    """Return all attributes of a pipe's modules, and the hooks on them."""
    return [
        (id(part), {name: _contents(value) for name, value in vars(part).items()})
        for module in private.modules_of(pipe).values()
        for part in module.modules()
    ]


def _contents(value: Any) -> Any:
    return [(key, id(one)) for key, one in value.items()] if isinstance(value, dict) else value


@pytest.mark.parametrize("interrupt", [None, press_ctrl_c])
def test_a_trace_that_is_interrupted_leaves_torch_and_the_pipe_as_they_were(interrupts, interrupt):
    with VirtualGPU():
        pipe = nets()
        torch_as_before, before, traces = torch_is_as_before(), parts_of(pipe), []

        def enter_and_leave():
            with trace(pipe, memory_history=True) as t:
                traces.append(t)

        def leave_again():
            for t in traces:
                with suppress(KeyboardInterrupt):
                    t.__exit__(None, None, None)
            traces.clear()

        needed = interrupt_everywhere(
            enter_and_leave,
            lambda: torch_as_before() and parts_of(pipe) == before,
            leave_again,
            most=interrupts,
            interrupt=interrupt,
            but=VIRTUAL_GPU,
        )
        assert len(needed) <= MOST_UNGUARDED
