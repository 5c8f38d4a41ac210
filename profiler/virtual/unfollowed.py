"""What of torch a virtual GPU does not follow: refused in a sentence, or an assumption of the profile; ignored nowhere.

Refused is what holds memory in ways of its own: CUDA graphs, memory pools, nested and sparse tensors. Told are modes
that ask for other kernels, if they are on when an operator runs first, and kernels in whose place others run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from profiler.errors import InputError
from profiler.patching import Patches
from profiler.virtual.cuda_api import here_or
from profiler.virtual.tensor import aten

if TYPE_CHECKING:
    from profiler.virtual.gpu import VirtualGPU

MODE = "mode"
"""What is assumed where torch's switches ask for other kernels."""

_REFUSED = {"CUDAGraph": "CUDA graphs", "MemPool": "memory pools"}
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_OTHER_LAYOUTS = ("nested", "sparse", "mkldnn")
_CONVOLUTIONS = (aten.convolution.default, aten._convolution.default)
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


def install(gpu: VirtualGPU, patches: Patches) -> None:
    """Refuse and tell on the thread of `gpu`."""
    for name, what in _REFUSED.items():
        for owner in (torch.cuda, torch.cuda.graphs, torch.cuda.memory):
            original = vars(owner).get(name)
            if original is not None:
                patches.replace(owner, name, _refusing(gpu, what, original))
    for name in _RECURRENT:
        original = getattr(torch._VF, name)
        patches.replace(torch._VF, name, here_or(gpu, _told(gpu, name, original), original))
    plain = torch.backends.mha.get_fastpath_enabled
    patches.replace(
        torch.backends.mha,
        "get_fastpath_enabled",
        here_or(gpu, partial(_no_fast_path, gpu), plain),
    )


def _no_fast_path(gpu: VirtualGPU) -> bool:
    gpu.values.assume(MODE, "nn.MultiheadAttention runs as in training, where it has a fused path")
    return False


def refuse_layout(func: Any) -> None:
    """Raise InputError for an operator of tensors that are laid out in ways that are not followed."""
    name = func._schema.name
    for layout in _OTHER_LAYOUTS if func.namespace == "aten" else ():
        if layout in name:
            raise InputError(
                f"a virtual GPU cannot follow {layout} tensors ({name}): leave out what makes them"
            )


def tell_modes(gpu: VirtualGPU, func: Any, dtype: torch.dtype) -> None:
    """Tell which of torch's switches ask for another kernel than the one that is reckoned with."""
    switches = torch.backends.cudnn
    if torch.are_deterministic_algorithms_enabled():
        gpu.values.assume(MODE, "deterministic algorithms take what the others take")
    if func in _CONVOLUTIONS and not switches.enabled:
        gpu.values.assume(MODE, "convolutions run by cuDNN, although it is switched off")
    elif func in _CONVOLUTIONS and switches.benchmark:
        gpu.values.assume(MODE, "cuDNN takes the workspaces that it takes without benchmarks")
    if func in _PRODUCTS and dtype == torch.float32 and _in_tf32():
        gpu.values.assume(MODE, "products in TF32 take as long as in single precision")


def _in_tf32() -> bool:
    return torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32"


def _refusing(gpu: VirtualGPU, what: str, original: type) -> type:
    class Refused:
        """Stands in for a class of which the virtual GPU has no instance."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if gpu.here():
                raise InputError(f"a virtual GPU cannot follow {what}: profile without them")
            return original(*args, **kwargs)

    return Refused


def _told(gpu: VirtualGPU, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(arg, torch.Tensor) and arg.is_cuda for arg in args):
            gpu.values.assume(MODE, f"{name} runs step by step, where cuDNN runs one kernel")
        return original(*args, **kwargs)

    return run
