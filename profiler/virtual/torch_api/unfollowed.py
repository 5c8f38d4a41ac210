"""Parts of torch that a virtual GPU does not follow: each is refused in a sentence or reported as an assumption.

Features that hold memory in ways of their own are refused: CUDA graphs and memory pools. Kernels that are replaced by
others are reported. `operators/unfollowed.py` does the same for operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from profiler.errors import InputError
from profiler.patching import Patches
from profiler.virtual.operators.unfollowed import MODE
from profiler.virtual.torch_api.cuda import here_or

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_REFUSED = {"CUDAGraph": "CUDA graphs", "MemPool": "memory pools"}
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def install(gpu: Device, patches: Patches) -> None:
    """Install the refusals and the reports on the thread of `gpu`."""
    for name, what in _REFUSED.items():
        for owner in (torch.cuda, torch.cuda.graphs, torch.cuda.memory):
            original = vars(owner).get(name)
            if original is not None:
                patches.replace(owner, name, _refusing(gpu, what, original))
    for name in _RECURRENT:
        original = getattr(torch._VF, name)
        patches.replace(torch._VF, name, here_or(gpu, _assuming(gpu, name, original), original))
    plain = torch.backends.mha.get_fastpath_enabled
    patches.replace(
        torch.backends.mha,
        "get_fastpath_enabled",
        here_or(gpu, partial(_no_fast_path, gpu), plain),
    )


def _no_fast_path(gpu: Device) -> bool:
    gpu.values.assume(MODE, "nn.MultiheadAttention runs as in training, where it has a fused path")
    return False


def _refusing(gpu: Device, what: str, original: type) -> type:
    class Refused:
        """A stand-in for a class of which the virtual GPU has no instance."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if gpu.here():
                raise InputError(f"a virtual GPU cannot follow {what}: profile without them")
            return original(*args, **kwargs)

    return Refused


def _assuming(gpu: Device, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(arg, torch.Tensor) and arg.is_cuda for arg in args):
            gpu.values.assume(MODE, f"{name} runs step by step, where cuDNN runs one kernel")
        return original(*args, **kwargs)

    return run
