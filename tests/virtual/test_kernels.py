"""Seconds of a kernel: the roofline, reckoned by hand, on a GPU whose fractions differ by class.

Rates are 10^12 a second in half precision and 10^11 in single; TF32 has 4 x 10^11.
"""

from dataclasses import replace

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.kernels import Kernel

aten = torch.ops.aten
GPU = replace(
    gpu_spec("a100-80gb"),
    memory_bytes_per_second=1e12,
    flops_per_second={"float16": 1e12, "float32": 1e11, "tfloat32": 4e11},
    cost=replace(
        gpu_spec("a100-80gb").cost,
        product=0.5,
        convolution=0.5,  # of a product's
        attention=0.2,
        single=0.8,
        single_attention=0.1,
        narrow_heads=0.9,
        memory=0.1,
        memory_kernel_seconds=1e-3,
        product_kernel_seconds=2e-3,
    ),
)
HALF = torch.float16


def meta(*shape, dtype=HALF, layout=torch.contiguous_format):
    return torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=layout)


def convolution(**options):
    image, weight = meta(1, 64, 64, 64, **options), meta(64, 64, 3, 3, **options)
    steps = [1, 1], [1, 1], [1, 1]
    return aten.convolution.default, (image, weight, None, *steps, False, [0, 0], 1)


CONVOLUTION = 2 * 64 * 64 * 9 * 64 * 64  # 64 x 64 channels x 9 weights for each of 64 x 64 pixels


def attention(rows, keys, head):
    many, few = meta(2, 8, rows, head), meta(2, 8, keys, head)
    return aten._scaled_dot_product_flash_attention.default, (many, few, few)


def efficient_attention():
    one = meta(2, 8, 512, 128, dtype=torch.float32)
    return aten._scaled_dot_product_efficient_attention.default, (one, one, one, None, False)


ATTENTION = 2 * 2 * 16 * 512 * 512 * 128  # two products for each of 2 x 8 heads


@pytest.mark.parametrize(
    ("func", "args", "seconds"),
    [
        # 2 x 1024^3 operations, half of 10^12 a second.
        (
            aten.mm.default,
            (meta(1024, 1024), meta(1024, 1024)),
            2 * 1024**3 / 0.5e12 + 2e-3,
        ),
        # The same in single precision without TF32, which has no tensor cores: 0.8 of 10^11.
        (
            aten.mm.default,
            (meta(1024, 1024, dtype=torch.float32), meta(1024, 1024, dtype=torch.float32)),
            2 * 1024**3 / 0.8e11 + 2e-3,
        ),
        # A quarter; channels last, so that nothing is copied.
        (*convolution(layout=torch.channels_last), CONVOLUTION / 0.25e12 + 2e-3),
        # In single precision TF32 is allowed: a quarter of 4 x 10^11.
        (*convolution(dtype=torch.float32), CONVOLUTION / 1e11 + 2e-3),
        # Two products of 512 x 512 x 128 for each of 2 x 8 heads; a fifth.
        (*attention(512, 512, 128), ATTENTION / 0.2e12 + 2e-3),
        # Heads of 40 are filled up to 64, and 77 keys to two tiles of 64; narrow heads reach 0.9 of it.
        (*attention(512, 77, 40), 2 * 2 * 16 * 512 * 128 * 64 / (0.2 * 0.9 * 1e12) + 2e-3),
        # Single precision is three products of TF32, a fifth of 4 x 10^11 each.
        (*efficient_attention(), 3 * ATTENTION / 0.8e11 + 2e-3),
        # No operations are counted: two inputs and an output of 2 MiB, a tenth of the bandwidth.
        (aten.add.Tensor, (meta(1024, 1024), meta(1024, 1024)), 3 * 2 * 1024**2 / 0.1e12 + 1e-3),
    ],
)
def test_a_kernel_takes_what_its_class_reaches(func, args, seconds):
    assert Kernel(GPU, func, args, {}, func(*args)).seconds() == pytest.approx(seconds)


def test_attention_in_single_precision_before_ampere_has_no_tensor_cores():
    older = replace(GPU, compute_capability=(7, 5))
    func, args = efficient_attention()
    seconds = Kernel(older, func, args, {}, func(*args)).seconds()
    assert seconds == pytest.approx(ATTENTION / 0.1e11 + 2e-3)  # a tenth of 10^11


def test_a_convolution_in_half_precision_moves_twice_unless_its_channels_come_last():
    """Where memory bounds it: one channel in and out, so that the copies decide."""
    image, weight = meta(1, 1, 2048, 2048), meta(1, 1, 1, 1)
    args = (image, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    func = aten.convolution.default
    moved = 2 * image.nbytes + 2
    assert Kernel(GPU, func, args, {}, func(*args)).seconds() == pytest.approx(
        2 * moved / 0.1e12 + 2e-3
    )


def test_precision_is_read_when_an_operator_runs_and_no_cache_keeps_an_earlier_one():
    before = torch.get_float32_matmul_precision()
    took = []
    with VirtualGPU(GPU) as gpu:
        one = torch.empty(4096, 4096, device="cuda")
        try:
            for precision in ("highest", "high", "highest"):
                torch.set_float32_matmul_precision(precision)
                torch.cuda.synchronize()
                began = gpu.clock.host + gpu.launch_seconds
                one @ one
                torch.cuda.synchronize()
                took.append(gpu.clock.host - began)
        finally:
            torch.set_float32_matmul_precision(before)
    operations = 2 * 4096**3
    # TF32 counts for products, too: half of 4 x 10^11, else 0.8 of 10^11.
    plain, tf32 = operations / 0.8e11 + 2e-3, operations / 2e11 + 2e-3
    assert took == pytest.approx([plain, tf32, plain], rel=1e-3)  # and a cudaMalloc
