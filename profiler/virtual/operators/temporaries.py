"""What the C++ of an operator allocates besides its outputs and its kernel's workspace: copies and buffers, in order.

Most of them are copies of inputs that a kernel wants contiguous. Each rule names the source that it was read from
(PyTorch's aten/src/ATen/native at 2.13.0, from knowledge) and follows what PyTorch's own CUDA build allocates when it
runs against a stand-in for the CUDA runtime. Reductions: `reductions.py`. Sorting: `sorting.py`. Attention:
`attention_steps.py`. Convolutions: `convolutions.py`. Operators that are composed of others: `composed.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from profiler.gpus.hardware import GpuSpec
from profiler.libraries import torch_versions
from profiler.virtual.operators import attention_steps, convolutions, indexing, products, sorting
from profiler.virtual.operators.reductions import REDUCTIONS, reduction_steps
from profiler.virtual.steps import OUTPUT, Output, Steps
from profiler.virtual.tensor import aten

_HALF = (torch.float16, torch.bfloat16)

_COPIED_BEFORE = {
    aten.native_layer_norm.default,  # layer_norm_cuda in cuda/layer_norm_kernel.cu
    aten._fused_rms_norm.default,
    aten.median.dim,  # cuda/Sorting.cpp
    aten.kthvalue.default,
}
_COPIED_AFTER = {  # structured: the output is there before the kernel's own function asks for a contiguous input
    aten._softmax.default,  # host_softmax in cuda/SoftMax.cu
    aten._log_softmax.default,
    aten.mode.default,  # cuda/TensorModeKernel.cpp
    aten.roll.default,  # cuda/TensorTransformations.cu
    aten.reflection_pad1d.default,  # cuda/ReflectionPad.cu
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.avg_pool3d.default,  # cuda/AveragePool3d.cu
}
_SCANS = {  # cuda/ScanKernels.cpp
    aten.cumsum.default,
    aten.cumprod.default,
    aten.cummax.default,
    aten.cummin.default,
    aten._cummax_helper.default,
    aten._cummin_helper.default,
    aten.logcumsumexp.default,
    aten._logcumsumexp.default,
}
_NEAREST = {
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
_COPIED_BEFORE_UNLESS_CHANNELS_LAST = {  # cuda/AdaptiveAveragePooling.cu
    aten._adaptive_avg_pool2d.default,
}
_CONTIGUOUS_INSIDE = {  # UpSampleBilinear2d.cu (gen2d_aa), AdaptiveMaxPooling2d.cu in cuda
    overload
    for packet in (
        aten._upsample_bilinear2d_aa,
        aten._upsample_bicubic2d_aa,
        aten.adaptive_max_pool2d,
    )
    for overload in map(packet.__getattr__, packet.overloads())
}


def steps_of(spec: GpuSpec, func: Any, args: tuple[Any, ...], result: Any) -> Steps:
    """Return what an operator allocates on a GPU besides its outputs.

    Args:
        spec: the GPU.
        func: the operator.
        args: its positional arguments, tensors on `meta`.
        result: its return value on `meta`.
    """
    rule = _RULES.get(func)
    if rule is not None:
        return rule(spec, args, result)
    if func._overloadpacket in REDUCTIONS:
        return reduction_steps(func, args, result, spec)
    given = args[0] if args else None
    if func in _SCANS:
        return _scan(args, result)
    if not isinstance(given, torch.Tensor) or (
        given.is_contiguous() and func not in _CONTIGUOUS_INSIDE
    ):
        return ()
    return _copies(func, given, result)


def _copies(func: Any, given: torch.Tensor, result: Any) -> Steps:
    """Return contiguous copies of the input, and contiguous twins of outputs that are not."""
    if func in _COPIED_BEFORE:
        return given.nbytes, OUTPUT
    if func in _COPIED_AFTER:
        return (given.nbytes,)
    if func in _CONTIGUOUS_INSIDE:
        outputs = (result,) if isinstance(result, torch.Tensor) else result
        return tuple(one.nbytes for one in (*outputs, given) if not one.is_contiguous())
    if func in _COPIED_BEFORE_UNLESS_CHANNELS_LAST and not _is_channels_last(given):
        return given.nbytes, OUTPUT
    return ()


def _is_channels_last(tensor: torch.Tensor) -> bool:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(tensor.dim())
    return layout is not None and tensor.is_contiguous(memory_format=layout)


def _scan(args: tuple[Any, ...], result: Any) -> Steps:
    """Return a copy in the dtype of the output, and a contiguous one. Source: ReduceOps.cpp, cuda/ScanKernels.cpp."""
    given = args[0]
    first = result if isinstance(result, torch.Tensor) else result[0]
    nbytes = given.numel() * first.element_size()
    converted = (nbytes,) if given.dtype != first.dtype else ()
    return (*converted, *(() if given.is_contiguous() else (nbytes,)))


def _group_norm(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a scale and a shift `[N, C]` in single precision; in half precision mean and deviation `[N, G]` before.

    Before all of them comes a copy of an image that is not contiguous, since torch 2.14.

    Source: `GroupNormKernelImplInternal` in cuda/group_norm_kernel.cu.
    """
    image, weight, bias, batch, channels, elements, groups = args[:7]
    copied = torch_versions.GROUP_NORM_COPIES and not image.is_contiguous()
    statistics = (batch * groups * 4,) * 2 if image.dtype in _HALF else ()
    statistics = (*((image.nbytes,) if copied else ()), *statistics)
    if elements == 1 or (weight is None and bias is None):
        return statistics
    return (*statistics, *(batch * channels * 4,) * 2)


def _im2col(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a copy of its input, contiguous or not, and one more if it is not; patches side by side need only that.

    Source: `im2col_out_cuda_template` in cuda/Im2Col.cu.
    """
    image, size, dilation, padding, stride = args[:5]
    side_by_side = (
        list(stride) == list(size)
        and not any(padding)
        and all(step == 1 for step in dilation)
        and all(pixels % step == 0 for pixels, step in zip(image.shape[-2:], stride, strict=True))
    )
    copies = (not image.is_contiguous()) + (not side_by_side)
    return (*(image.nbytes,) * copies, OUTPUT)


def _scalar_power(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return the base of `2.0**x` as a tensor on the GPU, a double.

    Source: `pow_Scalar_out` in Pow.cpp.
    """
    return () if args[0] == 1 else (8,)


def _where(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return choices in the dtype of the result, if they have another; numbers as tensors, which C++ makes on `meta`.

    Source: `where` in TensorCompare.cpp.
    """
    made = [
        one.numel() * result.element_size()
        for one in args[1:]
        if one.dtype != result.dtype or (one.dim() == 0 and one.fake_device.type == "meta")
    ]
    return (*made, OUTPUT)


def _nearest(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a contiguous twin of the output and a contiguous copy of the input, where they are not.

    In two dimensions pixels of four channels and more that lie together have a kernel of their own.

    Source: cuda/UpSampleNearest1d.cu, 2d and 3d.
    """
    image = args[0]
    if image.dim() == 4 and image.shape[1] >= 4 and _suggests_channels_last(image):
        return () if _is_channels_last(image) else (image.nbytes,)
    if image.shape == result.shape:
        return ()
    return tuple(one.nbytes for one in (result, image) if not one.is_contiguous())


def _pooled(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a copy of the input in the layout that its strides come closest to, if it has gaps or another order.

    Source: cuda/AveragePool2d.cu, cuda/DilatedMaxPool2d.cu.
    """
    image = args[0]
    fits = image.is_contiguous(memory_format=suggest_memory_format(image))
    return () if fits else (image.nbytes,)


def _suggests_channels_last(image: torch.Tensor) -> bool:
    return suggest_memory_format(image) == torch.channels_last


def _embedding(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return its indices in a row, if they are not. Source: `embedding_symint` in Embedding.cpp."""
    indices = args[1]
    return () if indices.is_contiguous() else (indices.nbytes, OUTPUT)


def _dropout(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return its mask before its output. Source: `dropout_cuda` in cuda/Dropout.cu."""
    return (Output(1),)


def _bernoulli(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return probabilities in single precision. Source: `bernoulli_tensor_cuda_kernel` in cuda/Distributions.cu."""
    return (args[0].numel() * 4,) if args[0].dtype in _HALF else ()


def _normal_around(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return what is added to means. Source: `normal_impl` in DistributionTemplates.h of 2.13.0."""
    return (result.nbytes,)


def _complex_to_real(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a copy of the input, which cuFFT overwrites. Source: `_fft_c2r_cufft` in cuda/SpectralOps.cpp."""
    return (args[0].nbytes,)


def _masked_scatter(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return positions in the source, and contiguous copies. Source: `masked_scatter__cuda` in cuda/IndexKernel.cpp."""
    given, mask, source = args[:3]
    copied = [one.nbytes for one in (mask, source) if not one.is_contiguous()]
    return (given.numel() * INT64_BYTES, *copied)


def _is_in(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return comparisons with each of a few elements. Source: `isin_default_kernel_gpu` in cuda/TensorCompare.cu."""
    elements, tests = args[:2]
    if not isinstance(elements, torch.Tensor) or not isinstance(tests, torch.Tensor):
        return ()
    if tests.numel() >= 10 * elements.numel() ** 0.145:
        return ()  # sorted
    return elements.numel() * tests.numel(), elements.numel()


def _random_order(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return numbers in order, and random keys in and out. Source: `randperm_out_cuda` in cuda/Randperm.cu."""
    count = result.numel()
    if not count:
        return ()
    # So many bits that nine of ten orders have no key twice.
    bits = math.ceil(math.log2(count - (6 * count**2 + 1) / (12 * math.log(0.9))))
    keys = count * (4 if bits <= 32 else 8)
    return INT64_BYTES, -INT64_BYTES, result.nbytes, keys, keys


INT64_BYTES = 8


def _histogram(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return the least and the largest value, unless they are given. Source: `_histc_cuda` in cuda/SummaryOps.cu."""
    least, largest = args[2:4]
    return (args[0].element_size(),) * 2 if least == largest else ()


_RULES = {
    aten.pow.Scalar: _scalar_power,
    aten.native_group_norm.default: _group_norm,
    aten.native_dropout.default: _dropout,
    aten.im2col.default: _im2col,
    aten.embedding.default: _embedding,
    aten.bernoulli.default: _bernoulli,
    aten.normal.Tensor_float: _normal_around,
    aten._fft_c2r.default: _complex_to_real,
    aten.masked_scatter.default: _masked_scatter,
    aten.histc.default: _histogram,
    aten.where.self: _where,
    aten.isin.Tensor_Tensor: _is_in,
    aten.randperm.default: _random_order,
    aten.avg_pool2d.default: _pooled,
    aten.max_pool2d_with_indices.default: _pooled,
    **dict.fromkeys(_NEAREST, _nearest),
    **attention_steps.RULES,
    **convolutions.RULES,
    **indexing.RULES,
    **products.RULES,
    **sorting.RULES,
}
