"""Workspaces worked out by hand: of convolutions, what is copied to channels-last, in MiB."""

from __future__ import annotations

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.temporaries import temporaries
from profiler.virtual.workspaces import Workspace, convolution

HALF, SINGLE = torch.float16, torch.float32


def workspace(gpu, image, out_channels, dtype, *, kernel=3, groups=1, transposed=False):
    """Return (predicted, least, most) of a convolution that keeps the size, in MiB."""
    dims = len(image) - 2
    taken = torch.empty(image, dtype=dtype, device="meta")
    weight = torch.empty(out_channels, image[1] // groups, *(kernel,) * dims, device="meta").to(
        dtype
    )
    output = torch.empty(image[0], out_channels, *image[2:], dtype=dtype, device="meta")
    args = (taken, weight, None, [1], [kernel // 2], [1], transposed, [0], groups)
    found = convolution(gpu_spec(gpu), args, output)
    return tuple(round(nbytes / MIB, 3) for nbytes in (found, found.least, found.most))


IMAGE = (1, 128, 256, 256)  # 16 MiB in half precision, 32 MiB in single
FOUR = (4, 128, 256, 256)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # Input 16, output 32, weight 0.562.
        ((("rtx-4090", IMAGE, 256, HALF), {}), (48.562, 48.562, 48.562)),
        # Four images: input and weight, at most all.
        ((("h100", FOUR, 256, HALF), {}), (64.562, 64.562, 192.562)),
        # Single precision: input 32, weight 1.125.
        ((("a100-80gb", IMAGE, 256, SINGLE), {}), (33.125, 33.125, 33.125)),
        # Nobody measured this GPU.
        ((("t4", IMAGE, 256, HALF), {}), (48.562, 0, 48.562)),
        ((("t4", IMAGE, 256, SINGLE), {}), (33.125, 0, 97.125)),
        # A kernel of one element, depthwise and transposed: perhaps none, perhaps all.
        ((("rtx-4090", IMAGE, 256, HALF), {"kernel": 1}), (0, 0, 48.062)),
        ((("rtx-4090", IMAGE, 128, HALF), {"groups": 128}), (0, 0, 32.002)),
        ((("rtx-4090", IMAGE, 256, HALF), {"transposed": True}), (0, 0, 48.562)),
    ],
)
def test_workspaces_are_what_is_copied(case, expected):
    args, options = case
    assert workspace(*args, **options) == expected


@pytest.mark.parametrize(
    ("image_last", "weight_last", "copied_bytes"),
    [
        # An image of 128 x 64 x 64, a weight of 128 x 128 x 3 x 3, two bytes each.
        (True, True, 0),
        (True, False, 128 * 128 * 9 * 2),
        (False, True, 128 * 64 * 64 * 2),
    ],
)
def test_a_convolution_lays_out_what_is_not_channels_last(image_last, weight_last, copied_bytes):
    formats = {True: torch.channels_last, False: torch.contiguous_format}
    image = torch.empty(1, 128, 64, 64, dtype=HALF, device="meta")
    weight = torch.empty(128, 128, 3, 3, dtype=HALF, device="meta")
    image = image.contiguous(memory_format=formats[image_last])
    weight = weight.contiguous(memory_format=formats[weight_last])
    args = (gpu_spec("rtx-4090"), (image, weight, None, [1], [1], [1], False, [0], 1), image)
    found = convolution(*args)
    assert (found, found.least, found.most) == (0,) * 3
    spec, given, output = args
    taken = temporaries(spec, torch.ops.aten.convolution.default, given, output)
    assert sum((*taken.before, *taken.after)) == copied_bytes


def test_a_workspace_is_its_bytes_and_keeps_its_bounds():
    sure, unsure = Workspace(5), Workspace(5, least=2, most=9)
    assert (sure, sure.least, sure.most) == (5, 5, 5)
    assert (unsure + 1, unsure.least, unsure.most) == (6, 2, 9)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, (8_519_680, 33_554_432)),  # 8320 KiB, and 32 MiB from Hopper on
        (":4096:8", (33_554_432, 33_554_432)),
        (":4096:2:16:8", (8_519_680, 8_519_680)),
        (":16:8", (131_072, 131_072)),  # what diffusers' `enable_full_determinism` sets
        ("nonsense", (8_519_680, 33_554_432)),
    ],
)
def test_the_workspace_of_matrix_products_is_what_the_environment_says(
    monkeypatch, setting, expected
):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", setting)
    for name, nbytes in zip(("rtx-4090", "h100"), expected, strict=True):
        with VirtualGPU(name) as gpu, torch.no_grad():
            square = torch.empty(16, 16, device="cuda")
            before = gpu.allocator.allocated_bytes
            product = square @ square
            assert gpu.allocator.allocated_bytes - before == nbytes + 1024, name
            del product
