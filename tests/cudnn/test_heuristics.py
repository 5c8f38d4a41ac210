"""Which of cuDNN's plans PyTorch tries, against a cuDNN of a few lines."""

from __future__ import annotations

import pytest

from profiler.cudnn.convolution import Convolution
from profiler.cudnn.graph_api import CudnnError
from profiler.cudnn.heuristics import Heuristics

PLAIN = Convolution(
    "float16", "nchw", (1, 4, 8, 8), (2, 4, 3, 3), (1, 2, 8, 8), (1, 1), (1, 1), (1, 1), 1, False
)
NOTES = {"DOWN_CONVERT_INPUTS": 1, "NONDETERMINISTIC": 2, "TENSOR_CORE": 3}


class Plans:
    """A cuDNN with certain plans, in place of the library: for each mode (workspace or None for a refusal, notes)."""

    def __init__(self, **plans):
        self.plans = plans
        self.made = 0
        self.asked = []

    class _Numbers(dict):
        def __missing__(self, name):
            note = name.removeprefix("CUDNN_NUMERICAL_NOTE_")
            return NOTES.get(note, name)

    enumerators = _Numbers()

    def make(self, kind, attributes=()):
        self.made += 1
        given = {name: value for name, _, value in attributes}
        if kind == "ENGINEHEUR":
            mode = given["ENGINEHEUR_MODE"].removeprefix("CUDNN_HEUR_MODE_")
            self.asked.append(mode)
            if mode not in self.plans:
                raise CudnnError("no such mode")
            return self.plans[mode]
        if kind == "EXECUTION_PLAN":
            workspace, _ = given["EXECUTION_PLAN_ENGINE_CONFIG"]
            if workspace is None:
                raise CudnnError("no such plan")
            return workspace
        return kind, given

    def parts(self, descriptor, name, kind):
        return [descriptor] if kind == "ENGINE" else descriptor

    def numbers(self, descriptor, name, type_, most):
        return descriptor[1] if type_ == "NUMERICAL_NOTE" else [descriptor]

    def free(self, *, keep=0):
        self.made = keep


def workspaces(plans, convolution=PLAIN, *, deterministic=False, tf32=True):
    return Heuristics(plans).workspaces(convolution, {}, deterministic=deterministic, tf32=tf32)


def test_the_first_plan_that_can_be_made_comes_first_and_then_smaller_ones():
    instant = [(None, []), (80, []), (90, []), (30, []), (30, []), (10, [])]
    assert workspaces(Plans(INSTANT=instant, FALLBACK=[(20, []), (5, [])])) == [80, 30, 10, 5]


def test_nothing_is_asked_for_after_a_plan_without_a_workspace():
    plans = Plans(INSTANT=[(80, []), (0, []), (7, [])], FALLBACK=[(1, [])])
    assert workspaces(plans) == [80, 0]
    assert plans.asked == ["INSTANT"]


def test_the_fallback_serves_where_the_heuristics_refuse():
    assert workspaces(Plans(FALLBACK=[(4, [])])) == [4]
    assert workspaces(Plans()) == []


@pytest.mark.parametrize(
    ("dtype", "flags", "expected"),
    [
        ("float16", {}, [60]),  # inputs are never converted down
        ("float16", {"deterministic": True}, [50]),
        ("float16", {"tf32": False}, [60]),  # it steers single precision alone
        ("float32", {}, [60]),
        ("float32", {"tf32": False}, [40]),
    ],
)
def test_plans_are_dropped_by_their_notes(dtype, flags, expected):
    listed = [(70, [1]), (60, [2, 3]), (50, [3]), (40, [])]
    found = workspaces(Plans(INSTANT=listed), PLAIN._replace(dtype=dtype), **flags)
    assert found[:1] == expected


def test_every_descriptor_but_the_gpus_is_freed():
    plans = Plans(INSTANT=[(8, []), (0, [])])
    workspaces(plans)
    assert plans.made == 1
