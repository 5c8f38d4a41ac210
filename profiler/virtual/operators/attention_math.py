"""Attention by plain operators, PyTorch's math backend: the fallback if no fused kernel serves, also on a CPU.

C++ makes the causal mask, and the scalars for masks, on the device that it sees, `meta`; and it adds a mask in place
unless it sees a tensor subclass. Hence the same operators here, in the same order, each tensor
kept as long as C++ keeps it. Letters in shapes: B batch, H heads, S queries, T keys, D head size.

Source: `_scaled_dot_product_attention_math`, `pre_process_group_query_attention_input`, `convert_boolean_attn_mask` and
`_safe_softmax` in PyTorch's aten/src/ATen/native/transformers/attention.cpp; the order of operators is that of 2.13.0.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from profiler.virtual.tensor import aten

_HALF = (torch.float16, torch.bfloat16)


def attend_by_math(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any]:
    """Return attention's output `[..., S, D]` and its weights `[..., S, T]`, in the dtype of the queries."""
    dtype = query.dtype
    query, key, value = (_accumulated(tensor) for tensor in (query, key, value))
    negative = scale is not None and scale < 0
    factor = math.sqrt(abs(scale) if scale is not None else 1 / math.sqrt(query.shape[-1]))
    scaled = query * (-factor if negative else factor)
    if is_causal:
        if mask is not None:
            raise RuntimeError(
                "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
            )
        mask = _causal_mask(scaled, key)
    keys, values = _repeated(scaled, key, value) if enable_gqa else (key, value)
    weights = torch.matmul(scaled, keys.transpose(-2, -1) * factor)
    if mask is not None:
        weights.add_(mask)
    weights = safe_softmax(weights, -1)
    if dropout_p > 0.0:
        weights = torch.dropout(weights, dropout_p, True)
    returned = weights.to(dtype)
    output = torch.matmul(weights, values).to(dtype)
    # In the order in which C++ leaves its variables, the last one first.
    del weights, keys, values, scaled, mask, value, key, query
    return output, returned


def additive_mask(mask: Any, dtype: torch.dtype) -> Any:
    """Return a mask of `dtype`: 0 where a boolean mask is true, -inf elsewhere; any other mask unchanged."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    hidden = _scalar(-math.inf, dtype, mask)
    return torch.where(mask, _scalar(0.0, dtype, mask), hidden)


def safe_softmax(scores: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Return the softmax of `scores`, with 0 along rows that are fully masked."""
    out = torch.softmax(scores, dim, dtype=dtype)
    masked = torch.isneginf(scores)
    rows = masked.all(dim, keepdim=True)
    result = torch.where(rows, _scalar(0.0, out.dtype, out), out, out=out)
    del rows, masked
    return result


def _accumulated(tensor: Any) -> Any:
    """Return a tensor in the dtype of the computation: single precision for half, unless that is switched off."""
    half = tensor.dtype in _HALF
    if half and not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed():
        return tensor.to(torch.float32)
    return tensor


def _causal_mask(query: Any, key: Any) -> Any:
    square = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
    square = square.tril()
    return additive_mask(square, query.dtype)


def _repeated(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Return keys and values with one head for each head of the queries."""
    heads = query.shape[-3]
    counts = key.shape[-3], value.shape[-3]
    if any(heads % count for count in counts):
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query"
        )
    if counts == (heads, heads):
        return key, value
    return (
        key.repeat_interleave(heads // counts[0], -3),
        value.repeat_interleave(heads // counts[1], -3),
    )


def _scalar(number: float, dtype: torch.dtype, beside: Any) -> Any:
    return aten.scalar_tensor.default(number, dtype=dtype, device=beside.device)
