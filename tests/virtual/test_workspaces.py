"""Workspaces worked out by hand: of convolutions that no table holds, what is copied to channels-last, in MiB."""

from __future__ import annotations

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.temporaries import steps_of
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


IMAGE = (1, 128, 258, 256)  # 16.125 MiB in half precision, 32.25 MiB in single; no model's size
FOUR = (4, 128, 258, 256)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # Input 16.125, output 32.25, weight 0.562; at most a twentieth more.
        ((("rtx-4090", IMAGE, 256, HALF), {}), (48.938, 48.938, 51.384)),
        # Four images: all of it four times, but the weight.
        ((("h100", FOUR, 256, HALF), {}), (194.062, 194.062, 203.766)),
        # Single precision: input 32.25, weight 1.125, and on Hopper the output, 64.5.
        ((("a100-80gb", IMAGE, 256, SINGLE), {}), (33.375, 0, 102.769)),
        ((("h100", IMAGE, 256, SINGLE), {}), (97.875, 0, 102.769)),
        # Before Ampere the answers differ most.
        ((("t4", IMAGE, 256, HALF), {}), (48.938, 0, 97.875)),
        ((("t4", IMAGE, 256, SINGLE), {}), (0, 0, 269.156)),
        # A kernel of one element; bfloat16 that is not cuDNN's at all.
        ((("rtx-4090", IMAGE, 256, HALF), {"kernel": 1}), (48.438, 0, 50.859)),
        ((("t4", IMAGE, 256, torch.bfloat16), {}), (0, 0, 0)),
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
    assert convolution(*args) == 0
    spec, given, output = args
    taken = steps_of(spec, torch.ops.aten.convolution.default, given, output)
    assert sum(step for step in taken if isinstance(step, int)) == copied_bytes


@pytest.mark.parametrize(("room_mib", "taken_mib"), [(100, 64), (63, 30), (29, 7), (6, 0)])
def test_a_workspace_that_does_not_fit_gives_way_to_the_largest_smaller_one(room_mib, taken_mib):
    """Of plans that take 64, 30 and 7 MiB; segments are whole multiples of 2 MiB."""
    spec = gpu_spec("rtx-4090")
    with VirtualGPU(spec.with_capacity(spec.context_bytes + room_mib * MIB)) as gpu:
        gpu.use_workspace(Workspace(64 * MIB, smaller=(30 * MIB, 7 * MIB, 0)), soft=True)
        assert gpu.allocator.peak_bytes == taken_mib * MIB
        assert bool(gpu.values.assumed) == (taken_mib < 64)


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
