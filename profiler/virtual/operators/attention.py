"""Scaled dot product attention as CUDA would run it: the choice of backend, and the operators around it.

The backends' outputs, log-sum-exps and layouts are those of their own meta functions. Letters in shapes: B batch,
H heads, S queries, T keys, D head size.

Source: `select_sdp_backend`, `can_use_cudnn_attention`, `can_use_flash_attention`, `can_use_mem_efficient_attention` in
PyTorch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, read at commit 001f694a; what that has changed since
torch 2.13.0 (the sizes that cuDNN serves, grouped queries) follows the machine code of 2.13.0's CUDA 13 build, with
cuDNN 9.20. `scaled_dot_product_attention`, `convert_boolean_attn_mask`, `preprocess_mask` and `pad_last_dim` in
aten/src/ATen/native/transformers/attention.cpp: the order of their calls, likewise.
"""

from __future__ import annotations

import math
import os
from typing import Any, TypedDict, Unpack

import torch

from profiler.gpus.hardware import MATH, OPT_IN, ROCM, GpuSpec
from profiler.libraries import torch_versions
from profiler.virtual.operators.attention_math import additive_mask, attend_by_math
from profiler.virtual.tensor import aten

FLASH_MOST_HEAD_SIZE = 256
HEAD_ALIGNMENT = 8  # elements; flash pads the head size to it
MASK_ALIGNMENT = 8  # elements; the memory-efficient kernel pads the mask's last dimension to it

_HALF = (torch.float16, torch.bfloat16)
_CUDNN = 3  # in `at::SDPBackend`, as are the others below
_BACKENDS = {0: "math", 1: "flash", 2: "efficient", _CUDNN: "cudnn"}
_PLAIN_ORDER = [1, 2, 0, 3, 4]  # the order unless another one is set
_DETERMINISTIC = 2  # the debug mode in which PyTorch refuses nondeterministic operations
_CUDNN_FIRST = (9, 10)  # major compute capabilities: `check_prefer_cudnn_attention`

EXPERIMENTAL = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
"""The environment variable with which ROCm's torch uses AOTriton's kernels on GPUs where they are experimental."""

_AOTRITON_HEAD_SIZE, _AOTRITON_HEAD_SIZE_OF_GFX11 = 512, 256  # the most: `aotriton_max_hdim`


def backend(
    spec: GpuSpec,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    *,
    is_causal: bool,
    enable_gqa: bool,
    dropout_p: float = 0.0,
) -> str:
    """Return "cudnn", "flash", "efficient" or "math" for tensors `[B, H, S, D]`, `[B, H, T, D]`, `[B, H, T, D]`.

    `torch.nn.attention.sdpa_kernel` and the switches of `torch.backends.cuda` are respected.

    Raises:
        RuntimeError: if they leave no backend that can run, with PyTorch's wording.
    """
    runs = {
        "cudnn": not dropout_p and _cudnn_serves(spec, query, key, value),
        "flash": mask is None and _flash_serves(spec, query, key, value, is_causal),
        "efficient": _efficient_serves(spec, query, key, value),
        "math": True,
    }
    if not _is_dense(query, key, value, mask):
        runs = {"math": True}
    elif not query.shape[1] == key.shape[1] == value.shape[1]:
        grouped = enable_gqa and _is_grouped(query, key, value)
        allowed = runs["efficient"] and torch_versions.GROUPED_HEADS_EVERYWHERE
        runs = {**runs, "efficient": allowed} if grouped else {"math": True}
    for name in _order(spec):
        if runs.get(name):
            return name
    raise RuntimeError("No available kernel. Aborting execution.")


def _order(spec: GpuSpec) -> list[str]:
    """Return the backends that are switched on, in order of preference. Source: `priority_order`."""
    order = torch._C._get_sdp_priority_order()
    if order == _PLAIN_ORDER and _prefers_cudnn(spec):
        order = [_CUDNN, *(number for number in order if number != _CUDNN)]
    switches = torch.backends.cuda
    enabled = {
        "cudnn": switches.cudnn_sdp_enabled(),
        "flash": switches.flash_sdp_enabled(),
        "efficient": switches.mem_efficient_sdp_enabled(),
        "math": switches.math_sdp_enabled(),
    }
    names = [_BACKENDS[number] for number in order if number in _BACKENDS]
    return [name for name in names if enabled[name]]


def _prefers_cudnn(spec: GpuSpec) -> bool:
    return spec.has_cudnn and spec.compute_capability[0] in _CUDNN_FIRST


def _runs_fused(spec: GpuSpec) -> bool:
    """Tell whether torch chooses fused kernels at all, and not the plain computation.

    Source: `check_flash_attention_hardware_support` and `check_mem_efficient_hardware_support`.
    """
    if spec.attention == OPT_IN:
        return os.environ.get(EXPERIMENTAL) == "1"
    return spec.attention != MATH


def _is_dense(query: Any, key: Any, value: Any, mask: Any) -> bool:
    """Tell whether the fused kernels accept these shapes: four dimensions, none empty, the last one without gaps."""
    tensors = (query, key, value)
    return (
        all(tensor.dim() == 4 and 0 not in tensor.shape for tensor in tensors)
        and query.shape[0] == key.shape[0] == value.shape[0]
        and query.shape[-1] == key.shape[-1]
        and all(tensor.stride(-1) == 1 for tensor in (*tensors, *([] if mask is None else [mask])))
    )


def _is_grouped(query: Any, key: Any, value: Any) -> bool:
    """Tell whether each head of keys serves several heads of queries. Source: `check_grouped_query_attention`."""
    heads, key_heads = query.shape[1], key.shape[1]
    return bool(key_heads == value.shape[1] and heads % key_heads == 0)


def _cudnn_serves(spec: GpuSpec, query: Any, key: Any, value: Any) -> bool:
    """Tell whether cuDNN serves these tensors. Source: `check_cudnn_tensor_shapes`, `check_cudnn_deterministic`."""
    sizes = query.shape[-1], value.shape[-1]
    most = 256 if spec.compute_capability == (9, 0) else 128
    if spec.compute_capability[0] == 10 and sizes == (192, 128):
        most = 192
    return (
        spec.has_cudnn
        and spec.compute_capability >= (8, 0)
        and query.dtype in _HALF
        and max(sizes) <= most
        and all(size % 8 == 0 for size in sizes)
        and key.shape[-2] != 1
        and torch.get_deterministic_debug_mode() < _DETERMINISTIC
    )


def _flash_serves(spec: GpuSpec, query: Any, key: Any, value: Any, is_causal: bool) -> bool:
    most = FLASH_MOST_HEAD_SIZE
    if spec.platform == ROCM:
        is_gfx11 = spec.architecture.startswith("gfx11")
        most = _AOTRITON_HEAD_SIZE_OF_GFX11 if is_gfx11 else _AOTRITON_HEAD_SIZE
    return (
        _runs_fused(spec)
        and spec.has_kernels_since(8, 0)
        and query.dtype in _HALF
        and query.shape[-1] == value.shape[-1] <= most
        and (query.shape[-2] == key.shape[-2] or not is_causal)
    )


def _efficient_serves(spec: GpuSpec, query: Any, key: Any, value: Any) -> bool:
    """Tell whether the memory-efficient kernel serves these tensors.

    Source: also `minimum_gemm_alignment` and `check_data_ptr_alignment_mem_efficient`.
    """
    modern = spec.has_kernels_since(8, 0)
    served = (*_HALF, torch.float32) if modern else (torch.float16, torch.float32)
    alignment = 8 if query.dtype in _HALF else 4 if modern else 1
    return (
        _runs_fused(spec)
        and query.dtype in served
        and query.shape[-1] % alignment == 0
        and value.shape[-1] % alignment == 0
        and not (
            modern and any(tensor.storage_offset() % alignment for tensor in (query, key, value))
        )
    )


class Options(TypedDict):
    """The keywords of torch's `scaled_dot_product_attention`."""

    dropout_p: float
    is_causal: bool
    scale: float | None
    enable_gqa: bool


def on_host(func: Any, output: int) -> bool:
    """Tell whether this output is in the host's memory: the memory-efficient kernel's seed and offset, 8 bytes each.

    Source: `_efficient_attention_forward` in transformers/cuda/attention.cu; until torch 2.13, on the GPU only while a
    graph is captured.
    """
    if torch_versions.RANDOM_STATE_ON_GPU:
        return False
    return output in (2, 3) and func is aten._scaled_dot_product_efficient_attention.default


def attend(
    spec: GpuSpec, query: Any, key: Any, value: Any, mask: Any, **options: Unpack[Options]
) -> Any:
    """Return attention's output `[B, H, S, D]`, computed by the operators that CUDA would run."""
    dropout_p, is_causal, scale = options["dropout_p"], options["is_causal"], options["scale"]
    chosen = backend(
        spec,
        query,
        key,
        value,
        mask,
        is_causal=is_causal,
        enable_gqa=options["enable_gqa"],
        dropout_p=dropout_p,
    )
    mask = additive_mask(mask, query.dtype)
    if chosen == "flash":
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if chosen == "cudnn":
        return _first_of(
            aten._scaled_dot_product_cudnn_attention.default(
                query, key, value, mask, False, dropout_p, is_causal, False, scale=scale
            )
        )
    if chosen == "efficient":
        if mask is not None:
            if mask.dtype != query.dtype:
                raise RuntimeError("invalid dtype for bias - should match query's dtype")
            mask = _aligned(mask).expand(*query.shape[:3], key.shape[-2])
        return aten._scaled_dot_product_efficient_attention.default(
            query, key, value, mask, False, dropout_p, is_causal, scale=scale
        )[0]
    return attend_by_math(query, key, value, mask, **options)[0]


def attend_on_host(
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Return attention's output `[..., S, D]`, computed by the operators that a CPU runs.

    Source: `use_flash_attention_cpp` in aten/src/ATen/native/transformers/sdp_utils_cpp.cpp, from knowledge.
    """
    mask = additive_mask(mask, query.dtype)
    four = all(tensor.dim() == 4 and 0 not in tensor.shape for tensor in (query, key, value))
    if four and not enable_gqa and not dropout_p and query.shape[-1] == value.shape[-1]:
        return aten._scaled_dot_product_flash_attention_for_cpu.default(
            query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
        )[0]
    return attend_by_math(
        query,
        key,
        value,
        mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )[0]


def _flash(
    query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> Any:
    head_size = query.shape[-1]
    missing = -head_size % HEAD_ALIGNMENT
    if missing:
        scale = scale if scale is not None else 1 / math.sqrt(head_size)
        query, key, value = (
            torch.nn.functional.pad(tensor, (0, missing)) for tensor in (query, key, value)
        )
    output = _first_of(
        aten._scaled_dot_product_flash_attention.default(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )
    )
    return output[..., :head_size] if missing else output


def _first_of(results: tuple[Any, ...]) -> Any:
    """Return the first result; the others are freed in the order in which C++ frees a tuple's, the first one first."""
    left = list(results)
    del results
    first = left.pop(0)
    while left:
        left.pop(0)
    return first


def _aligned(mask: Any) -> Any:
    """Return a mask whose rows begin at aligned addresses; a padded copy if they do not."""
    if all(stride % MASK_ALIGNMENT == 0 for stride in mask.stride()[:-1]):
        return mask
    length = mask.shape[-1]
    missing = MASK_ALIGNMENT - length % MASK_ALIGNMENT
    return torch.nn.functional.pad(mask, (0, missing))[..., :length]
