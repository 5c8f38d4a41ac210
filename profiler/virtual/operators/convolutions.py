"""What convolutions allocate besides outputs and workspaces: copies in another layout, and columns without cuDNN.

Source: `cudnn_convolution` in PyTorch's aten/src/ATen/native/cudnn/ConvShared.cpp; `_convolution` and `subtensor` in
Convolution.cpp; `slow_conv2d_forward` in cuda/ConvolutionMM2d.cu; `slow_conv_transpose2d_out_cuda_template` in
cuda/NaiveConvolutionTranspose2d.cu.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.convolutions import convolution_layout, is_without_cudnn
from profiler.virtual.steps import OUTPUT, Steps
from profiler.virtual.tensor import aten


def _convolution(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return copies in the layout that it computes in: of the input before its output is made, of the weight after."""
    image, weight = args[:2]
    if is_without_cudnn(spec, args):
        return _without_cudnn(args, result)
    layout = convolution_layout(spec, args)
    before, after = (
        () if tensor.is_contiguous(memory_format=layout) else (tensor.nbytes,)
        for tensor in (image, weight)
    )
    return (*before, OUTPUT, *after)


def _without_cudnn(args: tuple[Any, ...], result: torch.Tensor) -> Steps:
    """Return contiguous copies, and columns of one image at a time; groups have outputs of their own, later joined."""
    image, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    copies = [one.nbytes for one in (image, weight) if not one.is_contiguous()]
    if groups == 1:
        return (*copies, OUTPUT, *_columns(image, weight, bias, result, transposed=transposed))
    part = result.nbytes // groups
    columns = _columns(image, weight, bias, result, transposed=transposed)
    given = () if image.shape[0] == 1 else (image.nbytes // groups,)
    steps = (*given, part, *columns, *(-size for size in reversed((*given, *columns))))
    return (*copies, *steps * groups, OUTPUT, *(-part,) * groups)


def _columns(
    image: torch.Tensor, weight: torch.Tensor, bias: Any, result: torch.Tensor, *, transposed: bool
) -> tuple[int, ...]:
    """Return the bytes of columns, none for a kernel of one pixel, and of ones by which a bias is added."""
    taps = math.prod(weight.shape[1:])
    size = image.element_size()
    if transposed:
        ones = () if bias is None else (math.prod(result.shape[2:]) * size,)
        return (taps * math.prod(image.shape[2:]) * size, *ones)
    if math.prod(weight.shape[2:]) == 1:
        return ()
    return (taps * math.prod(result.shape[2:]) * size,)


RULES = {aten.convolution.default: _convolution}
