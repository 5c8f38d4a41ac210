"""What the C++ of an operator allocates besides its outputs and its kernel's workspace: copies and buffers, in order.

Most of them are copies of inputs that a kernel wants contiguous. Each rule names the source that it was read from
(PyTorch's aten/src/ATen/native at 2.13.0, from knowledge) and follows what PyTorch's own CUDA build allocates when it
runs against a stand-in for the CUDA runtime.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.convolutions import convolution_layout, is_without_cudnn
from profiler.virtual.tensor import aten

_HALF = (torch.float16, torch.bfloat16)


class Temporaries(NamedTuple):
    """Bytes of the blocks that are allocated before the outputs and after them; all are freed when the kernel ran."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


NONE = Temporaries()

_COPIED_BEFORE = {  # source: layer_norm_cuda in cuda/layer_norm_kernel.cu
    aten.native_layer_norm.default,
}
_COPIED_AFTER = {  # structured: the output is there before the kernel's own function asks for a contiguous input
    aten._softmax.default,  # host_softmax in cuda/SoftMax.cu
    aten._log_softmax.default,
    aten.cumsum.default,  # cuda/ScanKernels.cpp
    aten.cumprod.default,
    aten.topk.default,  # cuda/TensorTopK.cpp
    aten.roll.default,  # cuda/TensorTransformations.cu
    aten.reflection_pad1d.default,  # cuda/ReflectionPad.cu
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
}
_COPIED_AFTER_UNLESS_CHANNELS_LAST = {  # cuda/UpSampleNearest1d.cu, 2d and 3d
    overload
    for packet in (
        aten.upsample_nearest1d,
        aten.upsample_nearest2d,
        aten.upsample_nearest3d,
        aten._upsample_nearest_exact1d,
        aten._upsample_nearest_exact2d,
        aten._upsample_nearest_exact3d,
    )
    for overload in (packet.default, packet.vec)
}


def temporaries(spec: GpuSpec, func: Any, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return the temporaries of an operator on a GPU.

    Args:
        spec: the GPU.
        func: the operator.
        args: its positional arguments, tensors on `meta`.
        result: its return value on `meta`.
    """
    rule = _RULES.get(func)
    if rule is not None:
        return rule(spec, args, result)
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor) or given.is_contiguous():
        return NONE
    if func in _COPIED_BEFORE:
        return Temporaries(before=(given.nbytes,))
    if func in _COPIED_AFTER or (
        func in _COPIED_AFTER_UNLESS_CHANNELS_LAST and not _is_channels_last(given)
    ):
        return Temporaries(after=(given.nbytes,))
    return NONE


def _is_channels_last(tensor: torch.Tensor) -> bool:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(tensor.dim())
    return layout is not None and tensor.is_contiguous(memory_format=layout)


def _convolution(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return copies in the layout that it computes in: of the input before its output is made, of the weight after.

    Without cuDNN, the columns `[C * kernel, pixels of the output]` that are multiplied with the weight, of one image at
    a time; a kernel of one pixel needs none.

    Source: `cudnn_convolution` in cudnn/ConvShared.cpp; `slow_conv2d_forward` in cuda/ConvolutionMM2d.cu.
    """
    image, weight = args[:2]
    if is_without_cudnn(spec, args):
        taps = math.prod(weight.shape[1:])
        pixels = math.prod(result.shape[2:])
        pointwise = math.prod(weight.shape[2:]) == 1
        return Temporaries(after=() if pointwise else (taps * pixels * image.element_size(),))
    layout = convolution_layout(args)
    copied = [
        () if tensor.is_contiguous(memory_format=layout) else (tensor.nbytes,)
        for tensor in (image, weight)
    ]
    return Temporaries(*copied)


def _group_norm(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return a scale and a shift `[N, C]` in single precision; in half precision mean and deviation `[N, G]` before.

    Source: `GroupNormKernelImplInternal` in cuda/group_norm_kernel.cu.
    """
    image, weight, bias, batch, channels, elements, groups = args[:7]
    if elements == 1 or (weight is None and bias is None):
        return NONE
    statistics = (batch * groups * 4,) * 2 if image.dtype in _HALF else ()
    return Temporaries(after=(*statistics, *(batch * channels * 4,) * 2))


def _im2col(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return a copy of its input, contiguous or not, and one more if it is not.

    Source: `im2col_out_cuda_template` in cuda/Im2Col.cu.
    """
    image = args[0]
    return Temporaries(before=(image.nbytes,) * (1 if image.is_contiguous() else 2))


def _efficient_attention(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return the output once more in single precision, if it is in half and too wide for the registers.

    Source: `kNeedsOutputAccumulatorBuffer` in transformers/cuda/mem_eff_attention/kernel_forward.h.
    """
    output = result[0]
    wide = output.dtype in _HALF and output.shape[-1] > 128
    return Temporaries(after=(output.numel() * 4,) if wide else ())


def _flash_attention(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return what is added up over splits of the keys: log-sum-exp `[S, B, H, L]` and output `[S, B, H, L, D]`.

    Source: `set_params_splitkv` in transformers/cuda/flash_attn/flash_api.cpp. A split is half precision's alone, and
    without dropout.
    """
    query, key, dropout_p = args[0], args[1], args[3] if len(args) > 3 else 0.0
    batch, heads, length, size = query.shape
    rounded = -(-size // 32) * 32 if size <= 128 else -(-size // 64) * 64
    splits = 1 if dropout_p else _splits(spec, batch * heads, length, key.shape[2], size)
    if splits == 1:
        return NONE
    rows = splits * batch * heads * length
    return Temporaries(after=(rows * 4, rows * rounded * 4))


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


def _scalar_power(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Temporaries:
    """Return the base of `2.0**x` as a tensor on the GPU, a double.

    Source: `pow_Scalar_out` in Pow.cpp.
    """
    return NONE if args[0] == 1 else Temporaries(after=(8,))


_RULES = {
    aten.pow.Scalar: _scalar_power,
    aten.convolution.default: _convolution,
    aten.native_group_norm.default: _group_norm,
    aten.im2col.default: _im2col,
    aten._scaled_dot_product_efficient_attention.default: _efficient_attention,
    aten._scaled_dot_product_flash_attention.default: _flash_attention,
}
