"""Who computes a convolution, and as what it is handed to cuDNN."""

from __future__ import annotations

import pytest
import torch

from profiler.cudnn.convolution import Convolution
from profiler.gpus.hardware import gpu_spec
from profiler.virtual.convolutions import (
    CUDNN,
    DEPTHWISE,
    SLOW,
    as_cudnn_takes_it,
    convolution_backend,
)

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
IMAGE = (1, 64, 32, 32)


def arguments(
    dtype, *, image=IMAGE, kernel=3, step=1, dilation=1, groups=1, transposed=False, last=False
):
    """Return the arguments of `aten.convolution` with as many output channels as input channels."""
    dims = len(image) - 2
    taken = torch.empty(image, dtype=dtype, device="meta")
    if last:
        taken = taken.contiguous(memory_format=torch.channels_last)
    shape = (image[1], image[1] // groups, *(kernel,) * dims)
    weight = torch.empty(shape, dtype=dtype, device="meta")
    padding = [kernel // 2 * dilation]
    return taken, weight, None, [step] * dims, padding, [dilation], transposed, [0], groups


@pytest.mark.parametrize(
    ("gpu", "dtype", "options", "expected"),
    [
        ("rtx-4090", BRAIN, {}, CUDNN),
        ("t4", HALF, {}, CUDNN),
        ("t4", BRAIN, {}, SLOW),
        # One channel a group.
        ("rtx-4090", HALF, {"groups": 64}, CUDNN),
        ("rtx-4090", BRAIN, {"groups": 64}, DEPTHWISE),
        ("rtx-4090", SINGLE, {"groups": 64}, DEPTHWISE),
        ("rtx-4090", BRAIN, {"groups": 64, "last": True}, CUDNN),
        ("t4", BRAIN, {"groups": 64, "last": True}, DEPTHWISE),
        ("rtx-4090", BRAIN, {"groups": 64, "transposed": True}, CUDNN),
        ("rtx-4090", BRAIN, {"groups": 32}, CUDNN),
        # Which of half precision are cuDNN's.
        ("rtx-4090", HALF, {"groups": 64, "kernel": 7}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 64, "dilation": 2}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 16, "image": (1, 16, 32, 32)}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 64, "image": (1, 64, 6, 6)}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 64, "image": (1, 64, 8, 8, 8)}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 64, "step": 2}, CUDNN),
        ("rtx-4090", HALF, {"groups": 64, "step": 2, "image": (2, 64, 32, 32)}, DEPTHWISE),
        ("rtx-4090", HALF, {"groups": 256, "step": 2, "image": (2, 256, 32, 32)}, CUDNN),
        ("rtx-4090", HALF, {"groups": 64, "step": 3}, DEPTHWISE),
    ],
)
def test_convolutions_go_where_pytorch_sends_them(gpu, dtype, options, expected):
    assert convolution_backend(gpu_spec(gpu), arguments(dtype, **options)) == expected


def handed_over(args):
    return as_cudnn_takes_it(args, torch.ops.aten.convolution.default(*args))


def test_a_convolution_is_handed_over_with_a_number_for_each_dimension():
    expected = "f16 nchw 1,64,32,32 64,64,3,3 1,64,16,16 2,2 1,1 1,1 1"
    assert handed_over(arguments(HALF, step=2)) == Convolution.parse(expected)
    last = handed_over(arguments(BRAIN, last=True))
    assert last == Convolution.parse("bf16 nhwc 1,64,32,32 64,64,3,3 1,64,32,32 1,1 1,1 1,1 1")


def test_one_dimension_becomes_two():
    """The first one is of size 1, and nothing is padded or skipped along it."""
    found = handed_over(arguments(SINGLE, image=(2, 8, 50), step=2))
    assert found == Convolution.parse("f32 nchw 2,8,1,50 8,8,1,3 2,8,1,25 1,2 0,1 1,1 1")


@pytest.mark.parametrize("args", [arguments(torch.float64), arguments(HALF, image=(0, 8, 4, 4))])
def test_what_cudnn_is_never_asked_for_is_nothing(args):
    assert handed_over(args) is None
