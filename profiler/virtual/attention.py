"""Scaled dot product attention as CUDA would run it: which backend, and what stands around it.

The backends' outputs, log-sum-exps and layouts are those of their own meta functions. Letters in shapes: B batch,
H heads, S queries, T keys, D head size.

Source: `select_sdp_backend`, `use_flash_attention`, `use_mem_efficient_attention` in PyTorch's
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and `scaled_dot_product_attention`, `pad_bias`, `pad_last_dim`,
`convert_boolean_attn_mask` in aten/src/ATen/native/transformers/attention.cpp.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from profiler.hardware import Card
from profiler.virtual.tensor import aten

FLASH_MOST_HEAD_SIZE = 256
HEAD_ALIGNMENT = 8  # elements; flash pads the head size to it
MASK_ALIGNMENT = 8  # elements; the memory-efficient kernel pads the mask's last dimension to it

_HALF = (torch.float16, torch.bfloat16)


def backend(
    card: Card, query: Any, key: Any, value: Any, mask: Any, *, is_causal: bool, enable_gqa: bool
) -> str:
    """Return "flash", "efficient" or "math" for tensors `[B, H, S, D]`, `[B, H, T, D]`, `[B, H, T, D]`."""
    modern = card.compute_capability >= (8, 0)
    head_size = query.shape[-1]
    if any(tensor.dim() != 4 or 0 in tensor.shape for tensor in (query, key, value)):
        return "math"
    square = query.shape[-2] == key.shape[-2] or not is_causal
    same_head = head_size == value.shape[-1]
    if (
        modern
        and mask is None
        and query.dtype in _HALF
        and head_size <= FLASH_MOST_HEAD_SIZE
        and square
        and same_head
    ):
        return "flash"
    if enable_gqa or (query.dtype == torch.bfloat16 and not modern) or query.dtype == torch.float64:
        return "math"
    alignment = 8 if query.dtype in _HALF else 4 if modern else 1
    return (
        "efficient" if head_size % alignment == 0 and value.shape[-1] % alignment == 0 else "math"
    )


def attend(
    card: Card,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Return attention's output `[B, H, S, D]`, computed by the operators that CUDA would run."""
    chosen = backend(card, query, key, value, mask, is_causal=is_causal, enable_gqa=enable_gqa)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -math.inf).to(query.dtype)
    if chosen == "flash":
        return _flash(query, key, value, is_causal, scale)
    if chosen == "efficient":
        if mask is not None:
            mask = _aligned(mask).expand(*query.shape[:3], key.shape[-2])
        return aten._scaled_dot_product_efficient_attention.default(
            query, key, value, mask, False, 0.0, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_attention_math.default(
        query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


def _flash(query: Any, key: Any, value: Any, is_causal: bool, scale: float | None) -> Any:
    head_size = query.shape[-1]
    missing = -head_size % HEAD_ALIGNMENT
    if missing:
        scale = scale if scale is not None else 1 / math.sqrt(head_size)
        query, key, value = (
            torch.nn.functional.pad(tensor, (0, missing)) for tensor in (query, key, value)
        )
    output = aten._scaled_dot_product_flash_attention.default(
        query, key, value, 0.0, is_causal, False, scale=scale
    )[0]
    return output[..., :head_size] if missing else output


def _aligned(mask: Any) -> Any:
    """Return a mask whose rows begin at aligned addresses; a padded copy where they would not."""
    missing = -mask.shape[-1] % MASK_ALIGNMENT
    if not missing:
        return mask
    return torch.nn.functional.pad(mask, (0, missing))[..., : mask.shape[-1]]
