"""Which kernel normalises on CUDA, and RMS norm by plain operators.

Source: `_select_batch_norm_backend` in PyTorch's aten/src/ATen/native/Normalization.cpp; `rms_norm_symint` and
`rms_norm_composite` in aten/src/ATen/native/layer_norm.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from profiler.virtual.tensor import aten

_HALF = (torch.float16, torch.bfloat16)


def is_by_cudnn(args: Sequence[Any]) -> bool:
    """Tell whether cuDNN serves `aten.native_batch_norm` with `args`; it saves no statistics unless it trains."""
    given, weight, bias, mean, variance, training = args[:6]
    if None in (weight, bias, mean, variance) or training:
        return False
    return serves_dtypes(given.dtype, weight.dtype)


def serves_dtypes(given: torch.dtype, weight: torch.dtype) -> bool:
    """Tell whether cuDNN's batch norm takes an input and weights of these dtypes."""
    if torch.bfloat16 in (given, weight):
        return False
    return given != torch.float16 or weight == torch.float32


def is_fused(given: torch.Tensor, weight: torch.Tensor | None) -> bool:
    """Tell whether RMS norm is one kernel."""
    plain = suggest_memory_format(given) == torch.contiguous_format
    return plain and (weight is None or weight.dtype == given.dtype)


def rms_norm_of_parts(
    given: Any, normalized_shape: Sequence[int], weight: Any, eps: float | None
) -> Any:
    """Return what RMS norm does with a weight of another dtype, or an input with channels last."""
    wide = given.to(torch.float32) if given.dtype in _HALF else given
    dims = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(wide.dtype).eps if eps is None else eps
    squares = aten.pow.Tensor_Scalar(wide, 2)
    means = squares.mean(dims, keepdim=True).add_(eps)
    scale = means.rsqrt()
    del means, squares
    result = wide * scale
    if weight is not None:
        result = result * weight
    del wide
    output = result.to(given.dtype)
    del result, scale
    return output
