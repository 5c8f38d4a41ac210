"""What a kernel has to do: its class, operations and bytes, as the cost model of time takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from profiler.gpus.cost_model import ATTENTION, CONVOLUTION, MEMORY, PRODUCT, Work
from profiler.gpus.hardware import CUDA, GpuSpec
from profiler.virtual.convolutions import is_channels_last
from profiler.virtual.precision import CONVOLUTIONS
from profiler.virtual.tensor import aten

_HEAD_STEP, _TILE = 32, 64
"""FlashAttention and PyTorch's memory-efficient kernels fill heads up to a multiple of 32 values, and rows of queries
and keys up to whole tiles of 64 (aten/src/ATen/native/transformers/cuda, from knowledge)."""

_BY_HEADS = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}
"""Attention whose tensors are (batch, heads, rows, values)."""


def work_of(spec: GpuSpec, func: Any, args: tuple[Any, ...], result: Any, moved_bytes: int) -> Work:
    """Return what an operator has to do on a GPU; its tensors are on `meta`.

    Single precision is computed as TF32 where PyTorch allows it: in cuDNN by `torch.backends.cudnn.allow_tf32`, True by
    default, in cuBLAS by `torch.get_float32_matmul_precision()`.

    Args:
        spec: the GPU.
        func: the operator.
        args: its positional arguments.
        result: its return value.
        moved_bytes: the bytes of its inputs and outputs.
    """
    count = flop_registry.get(func._overloadpacket)
    if count is None:
        return Work(MEMORY, 0, moved_bytes)
    operations = count(*args, out_val=result)
    dtype = next(leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))
    if func in CONVOLUTIONS:
        rate = _rate(dtype, tf32=torch.backends.cudnn.allow_tf32)
        copied = _is_copied(spec, args)
        return Work(CONVOLUTION, operations, moved_bytes * (2 if copied else 1), rate)
    rate = _rate(dtype, tf32=torch.get_float32_matmul_precision() != "highest")
    if "attention" not in func.name():
        return Work(PRODUCT, operations, moved_bytes, rate)
    head = args[0].shape[-1]
    by_cudnn = func is aten._scaled_dot_product_cudnn_attention.default
    filled = round(operations * _filling(args)) if func in _BY_HEADS else operations
    if _as_three(spec, func, dtype):
        return Work(ATTENTION, 3 * filled, moved_bytes, "tfloat32", head)
    return Work(ATTENTION, filled, moved_bytes, _rate(dtype, tf32=False), head, by_cudnn)


def _as_three(spec: GpuSpec, func: Any, dtype: torch.dtype) -> bool:
    """Tell whether each product is three of TF32: memory-efficient attention in single precision, on tensor cores.

    Source: `OpMultiplyAddFastF32` from compute capability 8.0, in PyTorch's
    aten/src/ATen/native/transformers/cuda/mem_eff_attention/gemm_kernel_utils.h.
    """
    efficient = func is aten._scaled_dot_product_efficient_attention.default
    modern = spec.platform == CUDA and spec.compute_capability >= (8, 0)
    return efficient and dtype == torch.float32 and modern


def _rate(dtype: torch.dtype, *, tf32: bool) -> str:
    """Return the key of the data sheet's rate."""
    name = str(dtype).removeprefix("torch.")
    if name == "float32" and tf32:
        return "tfloat32"
    return "float8" if name.startswith("float8") or name == "int8" else name


def _is_copied(spec: GpuSpec, args: tuple[Any, ...]) -> bool:
    """Tell whether tensor cores take the image in another layout, so that input and output move twice."""
    rates = spec.flops_per_second
    half = args[0].dtype in (torch.float16, torch.bfloat16)
    return half and rates["float16"] > 1.5 * rates["float32"] and not is_channels_last(args)


def _filling(args: tuple[Any, ...]) -> float:
    """Return how much more than asked for is computed, because kernels work on whole tiles."""
    (rows, head), keys = args[0].shape[-2:], args[1].shape[-2]
    if 0 in (rows, head, keys):
        return 1.0
    return _filled(head, _HEAD_STEP) * _filled(rows, _TILE) * _filled(keys, _TILE)


def _filled(count: int, step: int) -> float:
    return -(-count // step) * step / count
