"""What PyTorch makes of a convolution: who computes it, in which layout, and as what it is handed to cuDNN.

Source: `ConvParams` in PyTorch's aten/src/ATen/native/Convolution.cpp and `cudnn_conv_suggest_memory_format` in
aten/src/ATen/native/ConvUtils.h at 2.13.0, from knowledge.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from profiler.cudnn.convolution import Convolution
from profiler.gpus.hardware import GpuSpec

CUDNN, DEPTHWISE, SLOW = "cudnn", "depthwise", "slow"
"""The backends: cuDNN; PyTorch's kernel for one channel a group; and its own that multiplies columns."""

_OF_CUDNN = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


def convolution_backend(spec: GpuSpec, args: tuple[Any, ...]) -> str:
    """Return who computes `aten.convolution` with `args`, whose tensors are on `meta`: one of the backends' names.

    bfloat16 on a GPU before Ampere is not cuDNN's. MIOpen, ROCm's library, stands in cuDNN's place here. If
    `torch.backends.cudnn` is switched off, everything is taken for cuDNN's all the same (`operators/unfollowed.py`
    tells).
    """
    before_ampere = spec.has_cudnn and spec.compute_capability < (8, 0)
    refused = args[0].dtype == torch.bfloat16 and before_ampere
    if _is_depthwise(args) and (refused or not _cudnn_serves_depthwise(args)):
        return DEPTHWISE
    return SLOW if refused else CUDNN


def is_without_cudnn(spec: GpuSpec, args: tuple[Any, ...]) -> bool:
    """Tell whether PyTorch multiplies columns itself."""
    return convolution_backend(spec, args) == SLOW


def convolution_layout(spec: GpuSpec, args: tuple[Any, ...]) -> torch.memory_format:
    """Return the memory layout of the output of `aten.convolution`: channels last if its input or its weight is.

    Torch's meta function makes all of them contiguous; so does PyTorch where it multiplies columns.
    """
    return torch.contiguous_format if is_without_cudnn(spec, args) else _layout(args)


def is_channels_last(args: tuple[Any, ...]) -> bool:
    """Tell whether the channels of input or weight lie next to each other, so that the output's will, too."""
    return _layout(args) != torch.contiguous_format


def _layout(args: tuple[Any, ...]) -> torch.memory_format:
    image, weight = args[:2]
    if image.dim() in (4, 5) and torch.float64 not in (image.dtype, weight.dtype):
        for tensor in (image, weight):
            layout = suggest_memory_format(tensor)
            if layout != torch.contiguous_format:
                return layout
    return torch.contiguous_format


def as_cudnn_takes_it(args: tuple[Any, ...], output: torch.Tensor) -> Convolution | None:
    """Return the convolution as it is handed to cuDNN; None for an empty one, or a dtype that no answer is kept for.

    One spatial dimension becomes two, the first of size 1 (`view4d` in Convolution.cpp).
    """
    image, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
    dtype = _OF_CUDNN.get(image.dtype)
    if dtype is None or 0 in (image.numel(), output.numel()):
        return None
    dims = weight.dim() - 2

    def shape(tensor: torch.Tensor) -> tuple[int, ...]:
        return (*tensor.shape[:2], *((1,) if dims == 1 else ()), *tensor.shape[2:])

    def steps(given: list[int], added: int) -> tuple[int, ...]:
        return (*((added,) if dims == 1 else ()), *tuple(given) * (dims if len(given) == 1 else 1))

    return Convolution(
        dtype=dtype,
        layout="nhwc" if is_channels_last(args) else "nchw",
        image=shape(image),
        weight=shape(weight),
        output=shape(output),
        stride=steps(stride, 1),
        padding=steps(padding, 0),
        dilation=steps(dilation, 1),
        groups=groups,
        transposed=bool(transposed),
    )


def _is_depthwise(args: tuple[Any, ...]) -> bool:
    image, weight, transposed, groups = args[0], args[1], args[6], args[8]
    channels = image.shape[1]
    plain = not transposed and image.dim() in (4, 5)
    return plain and groups == channels > 1 and weight.shape[0] % channels == 0


def _cudnn_serves_depthwise(args: tuple[Any, ...]) -> bool:
    """Tell whether cuDNN serves a depthwise convolution: always channels last, else some of half precision.

    Source: `use_cudnn_depthwise` and `check_cudnn_depthwise_workload_with_filter` in Convolution.cpp.
    """
    image, weight, stride, dilation = args[0], args[1], args[3], args[5]
    if is_channels_last(args):
        return True
    if image.dtype != torch.float16 or image.dim() != 4 or any(one != 1 for one in dilation):
        return False
    batch, channels, height, width = image.shape
    if channels < 32 or not (stride[0] == stride[-1] or height == 1):
        return False
    step, size = stride[-1], weight.shape[3]
    if height == 1 and step == 1:
        return True
    if weight.shape[2] != size or size not in (1, 3, 5) or width < 7:
        return False
    return step == 1 or (step == 2 and _cudnn_serves_strided(batch, channels, width, size))


def _cudnn_serves_strided(batch: int, channels: int, width: int, size: int) -> bool:
    """Tell the same for a step of two pixels."""
    if batch == 1:
        return size != 1 or width <= 28
    if size == 1:
        return batch <= 16 and channels >= 128 and width <= 7
    return channels >= 512 or (channels >= 256 and width >= 28)
