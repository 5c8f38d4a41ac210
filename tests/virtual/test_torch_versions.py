"""What PyTorch 2.14 does otherwise, as its CUDA build was seen to do it, whichever release is installed."""

from __future__ import annotations

import pytest
import torch

from profiler.gpus.hardware import gpu_spec
from profiler.libraries import torch_versions
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.attention import on_host
from profiler.virtual.operators.temporaries import steps_of
from profiler.virtual.steps import OUTPUT, Output

aten = torch.ops.aten
GPU = gpu_spec("rtx-4090")
EFFICIENT = aten._scaled_dot_product_efficient_attention.default


@pytest.fixture(params=[False, True], ids=["2.13", "2.14"])
def newer(request, monkeypatch):
    for name in ("RANDOM_STATE_ON_GPU", "GROUP_NORM_COPIES", "GROUPED_HEADS_EVERYWHERE"):
        monkeypatch.setattr(torch_versions, name, request.param)
    return request.param


def meta(*shape, layout=torch.contiguous_format):
    empty = torch.empty(shape, dtype=torch.float16, device="meta")
    return empty.contiguous(memory_format=layout)


def test_group_norm_copies_what_is_not_contiguous(newer):
    sizes = (1, 512, 64 * 64, 32, 1e-5)
    weights = meta(512), meta(512)
    result = (meta(1, 512, 64, 64), meta(1, 32), meta(1, 32))
    func = aten.native_group_norm.default
    statistics = (128, 128, 2048, 2048)  # of 32 groups, and of 512 channels, in single precision
    plain = meta(1, 512, 64, 64)
    last = meta(1, 512, 64, 64, layout=torch.channels_last)
    assert steps_of(GPU, func, (plain, *weights, *sizes), result) == statistics
    copy = (plain.nbytes,) if newer else ()
    assert steps_of(GPU, func, (last, *weights, *sizes), result) == (*copy, *statistics)


def test_seed_and_offset_of_attention_lie_on_the_gpu(newer):
    query = meta(1, 8, 1024, 64)
    result = (query, meta(1, 8, 0), meta(), meta())
    args = (query, query, query, None, False)
    first = (Output(2), Output(3), OUTPUT) if newer else ()
    assert steps_of(GPU, EFFICIENT, args, result) == first
    assert [on_host(EFFICIENT, output) for output in range(4)] == [
        False,
        False,
        not newer,
        not newer,
    ]


def test_grouped_heads_take_the_efficient_kernel(newer):
    """Its output, 2 MiB, and little else; the plain one repeats keys and values and holds the scores."""
    with VirtualGPU(GPU) as gpu:
        query = torch.empty(1, 8, 1024, 64, device="cuda")
        key = torch.empty(1, 2, 1024, 64, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        attention = torch.nn.functional.scaled_dot_product_attention
        attention(query, key, key, enable_gqa=True)
        took = gpu.allocator.peak_bytes - before
    assert took < 3 << 20 if newer else took > 16 << 20
