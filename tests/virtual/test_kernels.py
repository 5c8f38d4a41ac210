"""Seconds of a kernel: the roofline, reckoned by hand, on a GPU whose fractions differ by class."""

from dataclasses import replace

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.virtual.operators.kernels import Kernel

aten = torch.ops.aten
GPU = replace(
    gpu_spec("a100-80gb"),
    memory_bytes_per_second=1e12,
    flops_per_second=dict.fromkeys(("float16", "float32"), 1e12),
    achieved={"matrix_product": 0.5, "convolution": 0.25, "attention": 0.2, "memory": 0.1},
)
HALF = torch.float16


def meta(*shape):
    return torch.empty(shape, dtype=HALF, device="meta")


def attention_case():
    one = meta(2, 8, 512, 64)
    return aten._scaled_dot_product_flash_attention.default, (one, one, one)


@pytest.mark.parametrize(
    ("func", "args", "seconds"),
    [
        # 2 x 1024^3 operations, half of 10^12 a second.
        (aten.mm.default, (meta(1024, 1024), meta(1024, 1024)), 2 * 1024**3 / 0.5e12),
        # 2 x 64 x 64 channels x 9 weights for each of 64 x 64 pixels; a quarter.
        (
            aten.convolution.default,
            (
                meta(1, 64, 64, 64),
                meta(64, 64, 3, 3),
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                1,
            ),
            2 * 64 * 64 * 9 * 64 * 64 / 0.25e12,
        ),
        # Two products of 512 x 512 x 64 for each of 2 x 8 heads; a fifth.
        (*attention_case(), 2 * 2 * 16 * 512 * 512 * 64 / 0.2e12),
        # No operations are counted: two inputs and an output of 2 MiB, a tenth of the bandwidth.
        (aten.add.Tensor, (meta(1024, 1024), meta(1024, 1024)), 3 * 2 * 1024**2 / 0.1e12),
    ],
)
def test_a_kernel_takes_what_its_class_achieves(func, args, seconds):
    assert Kernel(GPU, func, args, {}, func(*args)).seconds() == pytest.approx(seconds)
