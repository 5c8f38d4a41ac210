"""What the kernels of attention allocate besides their outputs, and in which order they allocate those.

Letters in shapes: B batch, H heads, L queries, D head size, S splits of the keys.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.libraries import torch_versions
from profiler.virtual.steps import OUTPUT, Output, Steps
from profiler.virtual.tensor import aten

_HALF = (torch.float16, torch.bfloat16)
_RANDOM_STATE_BYTES = 16


def _cudnn_attention(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return seed and offset of the random numbers before its output.

    Source: `_cudnn_attention_forward` in transformers/cuda/attention.cu.
    """
    return Output(6), Output(7)


def _efficient_attention(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return seed and offset if they are on the GPU, and the output in single precision if it is in half and too wide.

    Source: `kNeedsOutputAccumulatorBuffer` in transformers/cuda/mem_eff_attention/kernel_forward.h.
    """
    output = result[0]
    wide = output.dtype in _HALF and output.shape[-1] > 128
    first = (Output(2), Output(3), OUTPUT) if torch_versions.RANDOM_STATE_ON_GPU else ()
    return (*first, *((output.numel() * 4,) if wide else ()))


def _flash_attention(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return what is added up over splits of the keys: log-sum-exp `[S, B, H, L]` and output `[S, B, H, L, D]`.

    Source: `set_params_splitkv` in transformers/cuda/flash_attn/flash_api.cpp. A split is half precision's alone, and
    without dropout; under ROCm there is none.
    """
    if not spec.has_cudnn:
        return ()  # AOTriton's kernels split no keys
    query, key, dropout_p = args[0], args[1], args[3] if len(args) > 3 else 0.0
    batch, heads, length, size = query.shape
    rounded = -(-size // 32) * 32 if size <= 128 else -(-size // 64) * 64
    splits = 1 if dropout_p else _splits(spec, batch * heads, length, key.shape[2], size)
    if dropout_p:
        return (_RANDOM_STATE_BYTES,)
    if splits == 1:
        return ()
    rows = splits * batch * heads * length
    sums, outputs = rows * 4, rows * rounded * 4
    return (Output(0), Output(1), sums, outputs, OUTPUT, -sums, -outputs)


def _splits(spec: GpuSpec, heads: int, queries: int, keys: int, head_size: int) -> int:
    """Return in how many parts the keys are split, so that the blocks fill the multiprocessors.

    Source: `num_splits_heuristic` in transformers/cuda/flash_attn/flash_api.cpp.
    """
    keys_a_block = 256 if head_size <= 64 else 128 if head_size <= 128 else 64
    key_blocks, blocks = -(-keys // keys_a_block), heads * -(-queries // 64)
    slots = 2 * spec.multi_processor_count
    if blocks >= 0.8 * slots:
        return 1
    efficiency = {}
    for splits in range(1, min(128, slots, key_blocks) + 1):
        if splits == 1 or -(-key_blocks // splits) != -(-key_blocks // (splits - 1)):
            waves = blocks * splits / slots
            efficiency[splits] = waves / math.ceil(waves)
    most = max(efficiency.values())
    return next(splits for splits, found in efficiency.items() if found >= 0.85 * most)


RULES = {
    aten._scaled_dot_product_cudnn_attention.default: _cudnn_attention,
    aten._scaled_dot_product_efficient_attention.default: _efficient_attention,
    aten._scaled_dot_product_flash_attention.default: _flash_attention,
}
