"""Results that torch's meta functions make larger than CUDA does, which leaves empty what only training asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from profiler.virtual.operators.normalisation import is_by_cudnn
from profiler.virtual.tensor import aten


def as_on_cuda(func: Any, args: tuple[Any, ...], result: Any) -> Any:
    """Return the result of `func` on `meta` tensors as CUDA returns it."""
    corrected = _CORRECTIONS.get(func)
    return result if corrected is None else corrected(args, result)


def _cudnn_attention(args: tuple[Any, ...], result: Any) -> Any:
    """Return no log-sum-exp without gradients.

    Source: `run_cudnn_SDP_fprop` in aten/src/ATen/native/cudnn/MHA.cpp, by the machine code.
    """
    return result if args[4] else (result[0], result[1].new_empty(0), *result[2:])


def _log_sigmoid(args: tuple[Any, ...], result: Any) -> Any:
    """Return no buffer. Source: `log_sigmoid_forward_cuda` in cuda/Activation.cpp."""
    return result[0], result[1].new_empty(0)


def _batch_norm(args: tuple[Any, ...], result: Any) -> Any:
    """Return no statistics from cuDNN unless it trains. Source: `cudnn_batch_norm` in cudnn/BatchNorm.cpp."""
    if not is_by_cudnn(args):
        return result
    return result[0], *(one.new_empty(0, dtype=torch.float32) for one in result[1:])


_CORRECTIONS: dict[Any, Callable[[tuple[Any, ...], Any], Any]] = {
    aten._scaled_dot_product_cudnn_attention.default: _cudnn_attention,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.native_batch_norm.default: _batch_norm,
}
