"""The memory that a kernel takes besides inputs and outputs: the rules, their sources, and their bounds.

cuDNN computes convolutions on channels-last copies. In half precision it copies input, weight and output, in single
precision only input and weight. PyTorch takes the plan that cuDNN's heuristics name first, and the next one if its
workspace does not fit, so a convolution's workspace is *soft*.
Source: `try_configs` and `run_conv_plan` in PyTorch's aten/src/ATen/native/cudnn/Conv_v8.cpp.

The sizes are calibrated, since cuDNN does not document what a plan takes. They were derived from peaks that others
published (benchmarks/vae_peaks.py and benchmarks/accuracy.py print each beside its prediction):

- half precision, one image: Stable Diffusion's VAE on an RTX 4090, encoder and decoder at 512 to 2048 pixels a side;
  FLUX.1-dev's decoder on an H100; the 3-D convolutions of CogVideoX on an A100 and an H100.
- single precision: the same VAE on the RTX 4090, and four images at once on an A100.
- several images in half precision: FLUX.1-dev with 4, 8 and 16 images on an H100, whose peaks reveal what six of its
  convolutions took: four copied no output (the upsampler with any number of images, the next one with 16), two did
  (that next one with 4 and 8), and no measure of their size predicts which. The figure is that of the majority; the
  upper bound includes the output as well.

Everything else has bounds but no measurement, and is marked so.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any, Self

import torch
from torch._prims_common import suggest_memory_format

from profiler.gpus.hardware import GpuSpec
from profiler.units import KIB

BLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
MEASURED_CAPABILITIES = frozenset({(8, 0), (8, 9), (9, 0)})

_HALF = (torch.float16, torch.bfloat16)


class Workspace(int):
    """The bytes that a kernel takes while it runs, with a lower and an upper bound.

    Args:
        nbytes: the predicted bytes.
        least: a lower bound; `nbytes` if not given.
        most: an upper bound; `nbytes` if not given.
    """

    least: int
    most: int

    def __new__(cls, nbytes: int, least: int | None = None, most: int | None = None) -> Self:
        self = super().__new__(cls, nbytes)
        self.least = nbytes if least is None else least
        self.most = nbytes if most is None else most
        return self


NOTHING = Workspace(0)


def convolution(spec: GpuSpec, args: tuple[Any, ...], output: torch.Tensor) -> Workspace:
    """Return the workspace of `aten.convolution` with `args` and its output, all on `meta`."""
    image, weight, transposed, groups = args[0], args[1], args[6], args[8]
    layout = convolution_layout(args)
    if layout != torch.contiguous_format or is_without_cudnn(spec, args):
        return NOTHING  # see `operators/temporaries.py` for copies into its layout, and columns
    whole, given = _nbytes(image, weight, output), _nbytes(image, weight)
    pointwise = math.prod(weight.shape[2:]) == 1
    if transposed or pointwise or _has_kernel_of_pytorch(image, weight, groups):
        return Workspace(0, most=whole if image.is_contiguous() else 0)
    measured = groups == 1 and spec.compute_capability in MEASURED_CAPABILITIES
    if image.dtype in _HALF and image.is_contiguous():
        if not measured:
            return Workspace(whole, least=0)
        alone = image.shape[0] == 1
        return Workspace(whole) if alone else Workspace(given, most=whole)
    if image.dtype == torch.float32 and image.is_contiguous():
        flat = image.dim() == 4
        return Workspace(given) if measured and flat else Workspace(given, least=0, most=whole)
    return NOTHING


def is_without_cudnn(spec: GpuSpec, args: tuple[Any, ...]) -> bool:
    """Tell whether PyTorch's own convolution serves it: bfloat16 on a GPU before Ampere, which cuDNN does not.

    Source: `use_cudnn` in PyTorch's aten/src/ATen/native/Convolution.cpp. Transposed ones and those in groups are left
    to the rules for cuDNN.
    """
    plain = not args[6] and args[8] == 1
    return plain and args[0].dtype == torch.bfloat16 and spec.compute_capability < (8, 0)


def convolution_layout(args: tuple[Any, ...]) -> torch.memory_format:
    """Return the memory layout of the output of `aten.convolution`: channels last if its input or its weight is.

    Torch's meta function makes all of them contiguous.

    Source: `cudnn_conv_suggest_memory_format` in PyTorch's aten/src/ATen/native/ConvUtils.h, from knowledge.
    """
    image, weight, groups = args[0], args[1], args[8]
    plain = image.dim() not in (4, 5) or torch.float64 in (image.dtype, weight.dtype)
    if not plain and not _has_kernel_of_pytorch(image, weight, groups):
        for tensor in (image, weight):
            layout = suggest_memory_format(tensor)
            if layout != torch.contiguous_format:
                return layout
    return torch.contiguous_format


def matrix_product(spec: GpuSpec) -> int:
    """Return the bytes of cuBLAS's workspace: from `CUBLAS_WORKSPACE_CONFIG`, else by the GPU's generation.

    Source: `parseChosenWorkspaceSize` in PyTorch's aten/src/ATen/cuda/CublasHandlePool.cpp.
    """
    pairs = re.findall(r":([0-9]+):([0-9]+)", os.environ.get(BLAS_VARIABLE, ""))
    chosen = sum(int(size) * int(count) for size, count in pairs) * KIB
    return chosen if pairs else spec.cublas_workspace_bytes


def _has_kernel_of_pytorch(image: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Tell whether PyTorch has its own depthwise kernel, which needs no workspace; cuDNN may still serve it.

    Source: `is_depthwise` and `use_cudnn_depthwise` in PyTorch's aten/src/ATen/native/Convolution.cpp.
    """
    channels = image.shape[1]
    return image.dim() in (4, 5) and groups == channels > 1 and weight.shape[0] % channels == 0


def _nbytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)
