"""Single operators allocate and free in the order in which PyTorch's own CUDA build does.

The histories are those of torch 2.13.0+cu130 on an RTX 4090, run without a GPU against a stand-in for the CUDA runtime:
`+` bytes that were asked for, `-` bytes that were freed. Workspaces of convolutions are left out there, and here.
"""

from __future__ import annotations

from itertools import groupby
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from profiler.gpus.hardware import choose_gpu_spec
from profiler.virtual import VirtualGPU, workspaces
from profiler.virtual.operators.scratch import selecting_scratch

SIGNS = {"alloc": "+", "free_completed": "-"}


def half(*shape):
    return torch.empty(shape, dtype=torch.float16, device="cuda")


def single(*shape):
    return torch.empty(shape, device="cuda")


def numbers(count):
    return torch.arange(count, device="cuda")


def mask(*shape):
    return torch.ones(shape, dtype=torch.bool, device="cuda")


def three_of(count):
    """Return a mask that is true three times."""
    return numbers(count) < 3


def tokens(channels, batch=1):
    """Return a picture whose pixels' channels lie together, as attention leaves it."""
    return half(batch, 1024, channels).unflatten(1, (32, 32)).permute(0, 3, 1, 2)


def reshaped(channels):
    """Return one that only looks so: the stride of its batch of one is that of a channel."""
    return half(1, 1024, channels).transpose(1, 2).reshape(1, channels, 32, 32)


def depthwise(image):
    return functional.conv2d(image, half(image.shape[1], 1, 3, 3), padding=1, groups=64)


def upsampled(image):
    return functional.interpolate(image, scale_factor=2.0)


def written(target, index, value):
    target[index] = value


# What is made first, what is done with it, and the history of that.
HISTORIES = {
    "nearest upsampling of channels last": (lambda: tokens(64), upsampled, "+524,288"),
    "nearest upsampling of what looks so": (
        lambda: reshaped(64),
        upsampled,
        "+524,288 +131,072 -131,072",
    ),
    "nearest upsampling of three channels": (
        lambda: tokens(3),
        upsampled,
        "+24,576 +24,576 +6,144 -6,144 -24,576",
    ),
    "depthwise convolution of channels last": (
        lambda: tokens(64),
        depthwise,
        "+1,152 +131,072 -1,152",
    ),
    "depthwise convolution of what looks so": (
        lambda: reshaped(64),
        depthwise,
        "+1,152 +131,072 +131,072 -131,072 -1,152",
    ),
    "RMS norm of turned tokens": (
        lambda: half(2, 8, 64, 64).transpose(1, 2),
        lambda x: functional.rms_norm(x, (64,)),
        "+131,072 +131,072 +4,096 -131,072 -4,096",
    ),
    "RMS norm with a weight in single precision": (
        lambda: half(64, 64),
        lambda x: functional.rms_norm(x, (64,), single(64)),
        "+256 +16,384 +16,384 +256 +256 -256 -16,384 +16,384 +16,384 -16,384 -16,384 +8,192 -16,384 -256 -256",
    ),
    "average pooling of what is turned": (
        lambda: half(1, 8, 8, 8).transpose(2, 3),
        lambda x: functional.avg_pool2d(x, 2),
        "+256 +1,024 -1,024",
    ),
    "adaptive pooling of what is turned": (
        lambda: half(1, 8, 8, 8).transpose(2, 3),
        lambda x: functional.interpolate(x, size=(4, 4), mode="area"),
        "+1,024 +256 -1,024",
    ),
    "which are infinite": (lambda: half(64, 64), torch.isinf, "+8,192 +4,096 -8,192"),
    "a choice with a number": (
        lambda: half(64, 64),
        lambda x: torch.where(mask(64, 64), x, -1.0),
        "+4,096 +2 +8,192 -2 -4,096",
    ),
    "a choice of two numbers": (
        lambda: mask(64, 64),
        lambda x: torch.where(x, 0.0, 1.0),
        "+4 +4 +16,384 -4 -4",
    ),
    "a choice of two dtypes": (
        lambda: half(64, 64),
        lambda x: torch.where(mask(64, 64), x, single(64, 64)),
        "+4,096 +16,384 +16,384 +16,384 -16,384 -4,096 -16,384",
    ),
    "two indices with the same strides": (
        lambda: (half(64, 64), numbers(64)),
        lambda x: x[0][x[1], x[1]],
        "+128",
    ),
    "a row of indices and a column": (
        lambda: (half(64, 64), numbers(64)),
        lambda x: x[0][x[1][:, None], x[1]],
        "+32,768 +32,768 +8,192 -32,768 -32,768",
    ),
    "indices of 32 bits": (
        lambda: (half(64, 64), numbers(8).int()),
        lambda x: x[0][x[1][:, None], x[1]],
        "+512 +512 +128 -512 -512",
    ),
    "a list of indices": (lambda: half(64, 64), lambda x: x[:, [0, 1, 2]], "+24 +384 -24"),
    "a mask of three": (
        lambda: (half(64, 64), three_of(64)),
        lambda x: x[0][x[1]],
        "+4 +1 -1 +24 +1,023 -1,023 -4 +384 -24",
    ),
    "a number written by indices": (
        lambda: (half(64, 64), numbers(64)),
        lambda x: written(x[0], (x[1][:, None], x[1]), 1.0),
        "+2 +32,768 +32,768 -32,768 -32,768 -2",
    ),
    "a number written by a mask": (
        lambda: (half(64, 64), mask(64, 64)),
        lambda x: written(*x, 0.0),
        "",
    ),
    "rows written by a mask": (
        lambda: (half(64, 64), three_of(64), half(3, 64)),
        lambda x: written(*x),
        "+4 +1 -1 +24 +1,023 -1,023 -4 -24",
    ),
    "positions of three": (lambda: three_of(100), torch.nonzero, "+4 +1 -1 +24 +1,023 -1,023 -4"),
    "whether two are equal": (
        lambda: (half(64, 64), half(64, 64)),
        lambda x: torch.equal(*x),
        "+4,096 +1 -1 -4,096",
    ),
    "whether two are close": (
        lambda: (half(4, 4), half(4, 4)),
        lambda x: torch.allclose(*x),
        "+16 +32 +32 +32 -32 -32 +32 +32 -32 +32 +16 +16 +16 -16 -16 -32 +16 -16 -16 -32 -32 +1 -1 -16",
    ),
    "flash attention over split keys": (
        lambda: half(1, 8, 1024, 64),
        lambda x: functional.scaled_dot_product_attention(x, x, x),
        "+1,048,576 +32,768 +65,536 +4,194,304 +16 +8 -65,536 -4,194,304 -32,768 -16 -8",
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_an_operator_allocates_in_the_order_of_torch_s_cuda_build(name):
    make, call, expected = HISTORIES[name]
    nothing = patch.object(workspaces, "convolution", lambda *_: workspaces.NOTHING)
    with VirtualGPU("rtx-4090"), nothing, torch.no_grad():
        assert settled(history(make, call)) == settled(parsed(expected))


def history(make, call):
    """Return what the call asked for and freed: signs and bytes."""
    given = make()
    torch.cuda.memory._record_memory_history(max_entries=1000, clear_history=True)
    result = call(given)  # noqa: F841  # its outputs stay until the history is read
    entries = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(None)
    return [(SIGNS[one["action"]], one["size"]) for one in entries if one["action"] in SIGNS]


def parsed(text):
    """Return a history that is written down as text."""
    return [(word[0], int(word[1:].replace(",", ""))) for word in text.split()]


def settled(entries):
    """Return a history in which what is freed between two requests is sorted: its order makes no difference."""
    freed_together = groupby(entries, key=lambda entry: entry[0])
    return [
        entry for sign, run in freed_together for entry in (sorted(run) if sign == "-" else run)
    ]


# On an RTX 4090 and on an H100, by how many elements are looked at.
SELECTIONS = [
    ("rtx-4090", {4096: 1023, 40_000: 1279, 65_536: 1791, 1_000_000: 13_311, 10_000_000: 125_951}),
    ("h100", {100_000: 1023, 262_144: 1279, 1_000_000: 2815, 10_000_000: 19_711}),
]


@pytest.mark.parametrize(("gpu", "expected"), SELECTIONS)
def test_a_selection_takes_a_state_for_each_of_its_tiles(gpu, expected):
    spec = choose_gpu_spec(gpu)
    assert {count: selecting_scratch(spec, count)[0] for count in expected} == expected
