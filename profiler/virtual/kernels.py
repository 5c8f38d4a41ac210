"""What a kernel needs besides its inputs and outputs: its own memory, the cuBLAS workspace, and time.

Rules, each with its source:

- A half-precision cuDNN convolution with a kernel larger than one element, on contiguous (NCHW, NCDHW) input,
  takes a workspace of the bytes of input, output and weight: it works on channels-last copies. In single precision
  it takes half of that. Soft: cuDNN takes another plan where it does not fit. Calibrated on published peaks of
  FLUX.1-dev and of Stable Diffusion XL (see docs/accuracy.md); `WORKSPACE_BAND` says how far to trust it.
- cuBLAS takes one workspace a handle and stream with the first matrix product, and keeps it.
  Source: `getChosenWorkspaceSize` in PyTorch's aten/src/ATen/cuda/CublasHandlePool.cpp.
- Time is the roofline's: the larger of operations / rate and bytes / bandwidth, with stated achieved fractions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from profiler.hardware import Card
from profiler.virtual.tensor import aten

_BLAS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.addbmm.default,
    aten.mv.default,
    aten.addmv.default,
    aten.dot.default,
    aten._scaled_mm.default,
}
_CONVOLUTIONS = {
    aten.convolution.default,
    aten._convolution.default,
    aten.cudnn_convolution.default,
}
_WORKSPACE_SHARE = {torch.float16: 1.0, torch.bfloat16: 1.0, torch.float32: 0.5}

# How much of a convolution's calibrated workspace may be wrong: all of it.
WORKSPACE_BAND = 1.0

# Fractions of the datasheet's rates that large kernels reach. Estimates, until measured on a card.
ACHIEVED_COMPUTE = 0.6
ACHIEVED_BANDWIDTH = 0.75


class Kernel:
    """One operator with meta arguments, on one card.

    Args:
        card: where it runs.
        func: the operator.
        args: its positional arguments, tensors on `meta`.
        result: what it returned on `meta`.
    """

    def __init__(self, card: Card, func: Any, args: tuple[Any, ...], result: Any) -> None:
        self._card = card
        self._func = func
        self._args = args
        self._result = result

    @property
    def needs_blas_workspace(self) -> bool:
        """Whether cuBLAS serves it."""
        return self._func in _BLAS

    @property
    def soft_scratch(self) -> bool:
        """Whether it does without its memory where that does not fit."""
        return self._func in _CONVOLUTIONS

    def scratch_bytes(self) -> int:
        """Return the memory it takes while it runs."""
        if self._func in _CONVOLUTIONS:
            return _convolution_workspace(self._args, self._result)
        return 0

    def seconds(self) -> float:
        """Return how long it takes by the roofline."""
        tensors = [
            leaf
            for leaf in tree_leaves((self._args, self._result))
            if isinstance(leaf, torch.Tensor)
        ]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        seconds = moved / (self._card.memory_bytes_per_second * ACHIEVED_BANDWIDTH)
        count = flop_registry.get(self._func._overloadpacket)
        if count is None:
            return seconds
        operations = count(*self._args, out_val=self._result)
        rates = self._card.flops_per_second
        rate = rates.get(_dtype_name(tensors[0].dtype), rates["float32"])
        return max(seconds, operations / (rate * ACHIEVED_COMPUTE))


def _convolution_workspace(args: tuple[Any, ...], output: torch.Tensor) -> int:
    """Return the bytes of channels-last copies of a convolution's input, output and weight, as far as it makes them."""
    image, weight = args[0], args[1]
    transposed = args[6]
    share = _WORKSPACE_SHARE.get(image.dtype, 0.0)
    if transposed or not share or weight.shape[2:].numel() == 1 or not image.is_contiguous():
        return 0
    return int((image.numel() + output.numel() + weight.numel()) * image.element_size() * share)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
