"""Operators of cuBLAS and cuDNN, and torch's settings by which they choose how to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from profiler.virtual.tensor import aten

PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.addbmm.default,
    aten.mv.default,
    aten.addmv.default,
    aten.dot.default,
    aten._scaled_mm.default,
    aten._int_mm.default,
    aten._addmm_activation.default,
}
"""Operators that cuBLAS serves."""

CONVOLUTIONS = {
    aten.convolution.default,
    aten._convolution.default,
    aten.cudnn_convolution.default,
}

# What `torch.backends.cudnn.allow_tf32`, `.deterministic` and `torch.get_float32_matmul_precision()` ask, in a seventh
# of the time: every product and convolution asks them.
_allow_tf32: Callable[[], bool] = torch._C._get_cudnn_allow_tf32
_deterministic: Callable[[], bool] = torch._C._get_cudnn_deterministic
_precision: Callable[[], str] = torch._C._get_float32_matmul_precision


def precision_settings() -> tuple[Any, ...]:
    """Return the settings of torch, of this moment, by which convolutions and products choose how to compute."""
    return _allow_tf32(), _deterministic(), _precision()


BY_PRECISION = PRODUCTS | CONVOLUTIONS
"""Operators that depend on `precision_settings`."""
