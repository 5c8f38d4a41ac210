"""The fixture that watches torch, accelerate and diffusers sees what it is there to see."""

import pytest
import torch
from accelerate import hooks
from left_behind import changes, snapshot


def _patched_function(patch):
    patch.setattr(torch.cuda, "empty_cache", lambda: None)


def _patched_hook_class(patch):
    patch.setattr(hooks.CpuOffload, "pre_forward", lambda *_: None)


def _added_tensor_attribute(patch):
    patch.setattr(torch.Tensor, "is_virtual", True, raising=False)


def _queued_call(patch):
    patch.setattr(torch.cuda, "_queued_calls", [*torch.cuda._queued_calls, (print, [])])


@pytest.mark.parametrize(
    ("leave", "owner"),
    [
        (_patched_function, "torch.cuda"),
        (_patched_hook_class, "accelerate.hooks.CpuOffload"),
        (_added_tensor_attribute, "torch.Tensor"),
        (_queued_call, "torch state"),
    ],
)
def test_what_is_left_behind_is_named(leave, owner):
    before = snapshot()
    with pytest.MonkeyPatch.context() as patch:
        leave(patch)
        assert owner in changes(before, snapshot())
    assert changes(before, snapshot()) == {}


def test_a_mode_that_stays_entered_is_named():
    from torch.utils._python_dispatch import TorchDispatchMode

    before = snapshot()
    with TorchDispatchMode():
        assert changes(before, snapshot()) == {
            "torch state": ["dispatch modes", "in a dispatch mode"]
        }
