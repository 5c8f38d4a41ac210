"""Which attention runs on which GPU, against a table worked out from PyTorch's rules, and what it takes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from profiler.gpus.hardware import gpu_spec
from profiler.units import MIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.attention import backend


def chosen(
    name, shape, *, dtype=torch.bfloat16, keys=None, values=None, mask=None, causal=False, gqa=False
):
    """Return the backend for tensors `[B, H, S, D]` of `shape`; `keys` and `values` where theirs differ."""
    query = torch.empty(shape, dtype=dtype, device="meta")
    key = torch.empty(keys or shape, dtype=dtype, device="meta")
    value = torch.empty(values or keys or shape, dtype=dtype, device="meta")
    if mask is not None:
        mask = torch.empty(mask, dtype=dtype, device="meta")
    return backend(gpu_spec(name), query, key, value, mask, is_causal=causal, enable_gqa=gqa)


PLAIN = (2, 24, 512, 128)


@pytest.mark.parametrize(
    ("expected", "name", "shape", "options"),
    [
        # On data-centre Hopper and Blackwell, cuDNN comes first; elsewhere flash does.
        ("flash", "a100", PLAIN, {}),
        ("flash", "rtx-4090", PLAIN, {}),
        ("cudnn", "h100", PLAIN, {}),
        ("cudnn", "b200", PLAIN, {}),
        ("flash", "rtx-5090", PLAIN, {}),
        ("efficient", "t4", PLAIN, {"dtype": torch.float16}),
        ("math", "t4", PLAIN, {}),  # no bfloat16 before Ampere
        # Flash takes no mask, cuDNN does.
        ("efficient", "a100", PLAIN, {"mask": (2, 1, 1, 512)}),
        ("cudnn", "h100", PLAIN, {"mask": (2, 1, 1, 512)}),
        # Head sizes: flash up to 256 with padding; cuDNN in steps of 8 up to 128, 256 on Hopper.
        ("flash", "a100", (2, 8, 512, 40), {}),
        ("flash", "h100", (2, 8, 512, 36), {}),
        ("cudnn", "h100", (2, 8, 512, 256), {}),
        ("flash", "b200", (2, 8, 512, 256), {}),
        ("efficient", "a100", (2, 1, 512, 512), {}),
        ("math", "a100", (2, 1, 512, 508), {}),
        ("math", "a100", (2, 8, 512, 36), {"mask": (512, 512)}),
        # Single precision: the memory-efficient kernel, in steps of 4 elements from Ampere on.
        ("efficient", "h100", PLAIN, {"dtype": torch.float32}),
        ("math", "a100", (2, 8, 512, 30), {"dtype": torch.float32}),
        ("efficient", "t4", (2, 8, 512, 30), {"dtype": torch.float32}),
        # Heads: grouped queries where they are asked for, and then never memory-efficient.
        ("flash", "a100", PLAIN, {"keys": (2, 8, 77, 128), "gqa": True}),
        ("math", "a100", PLAIN, {"keys": (2, 8, 77, 128), "gqa": True, "mask": (512, 77)}),
        ("math", "a100", PLAIN, {"keys": (2, 8, 77, 128)}),
        ("efficient", "a100", PLAIN, {"gqa": True, "mask": (512, 512)}),
        # Causal flash needs as many keys as queries; cuDNN needs more than one key.
        ("efficient", "a100", PLAIN, {"keys": (2, 24, 77, 128), "causal": True}),
        ("flash", "h100", PLAIN, {"keys": (2, 24, 1, 128)}),
        ("math", "a100", (24, 512, 128), {}),  # three dimensions
    ],
)
def test_the_backend_is_the_one_that_pytorch_would_choose(expected, name, shape, options):
    assert chosen(name, shape, **options) == expected


def test_switches_and_priorities_are_honoured():
    with sdpa_kernel(SDPBackend.MATH):
        assert chosen("h100", PLAIN) == "math"
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        assert chosen("h100", PLAIN) == "cudnn"
        assert chosen("a100", PLAIN) == "efficient"
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        assert chosen("h100", PLAIN) == "math"
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        pytest.raises(RuntimeError, match="No available kernel"),
    ):
        chosen("t4", PLAIN)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert chosen("h100", PLAIN) == "flash"
    finally:
        torch.use_deterministic_algorithms(mode=False)


def peak_of_attention(name, mask_shape=None, mask_dtype=torch.bool):
    """Return what attention adds to the allocated bytes at most: queries `[1, 8, 1024, 64]`, 1 MiB in bfloat16."""
    with VirtualGPU(name) as gpu, torch.no_grad():
        query = torch.empty(1, 8, 1024, 64, dtype=torch.bfloat16, device="cuda")
        mask = None
        if mask_shape is not None:
            mask = torch.empty(mask_shape, dtype=mask_dtype, device="cuda")
        before = gpu.allocator.allocated_bytes
        torch.cuda.reset_peak_memory_stats()
        torch.nn.functional.scaled_dot_product_attention(query, query, query, mask)
        return gpu.allocator.peak_bytes - before


def test_what_attention_takes():
    scalars = 2 * 512  # random state and offset
    # Flash: the output, and a log-sum-exp of 8 x 1024 numbers; both once more in single precision for each of four
    # splits of the keys, since 8 x 16 blocks do not fill 108 multiprocessors twice. cuDNN: the output alone.
    statistics = 8 * 1024 * 4
    splits = 4 * (statistics + 2 * MIB)
    assert peak_of_attention("a100") == MIB + statistics + splits + scalars
    assert peak_of_attention("h100") == MIB + scalars
    # Memory-efficient with a mask of 1024 x 1024 bools: 2 MiB in the queries' dtype and no step in single precision.
    # The random state is in the host's memory.
    assert peak_of_attention("a100", (1, 1, 1024, 1024)) == MIB + 2 * MIB
