"""What a virtual GPU does not follow is refused in one sentence, or told as an assumption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from profiler.errors import InputError
from profiler.virtual import VirtualGPU
from profiler.virtual.torch_api.unfollowed import MODE


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        yield gpu


def image():
    return torch.zeros(1, 8, 8, 8, device="cuda")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.cuda.CUDAGraph(keep_graph=True), "CUDA graphs"),
        (
            lambda: torch.cuda.make_graphed_callables(nn.Conv2d(8, 8, 3).cuda(), (image(),)),
            "graphs",
        ),
        (lambda: torch.cuda.MemPool(None), "memory pools"),
        (lambda: torch.nested.nested_tensor([image()[0, 0], image()[0, 1]]), "nested tensors"),
        (lambda: image().to_sparse(), "sparse tensors"),
    ],
    ids=["graph", "graphed", "pool", "nested", "sparse"],
)
def test_other_memory_is_refused(gpu, make, what):
    with pytest.raises(InputError, match=f"a virtual GPU cannot follow .*{what}"):
        make()


def deterministic(monkeypatch):
    torch.use_deterministic_algorithms(mode=True)


def no_cudnn(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)


def benchmark(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)


def tf32(monkeypatch):
    torch.set_float32_matmul_precision("high")


@pytest.fixture
def switches():
    """Put back those of torch's switches that have no attribute."""
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("switch", "run", "told"),
    [
        (deterministic, lambda: image() + 1, "deterministic algorithms"),
        (no_cudnn, lambda: nn.Conv2d(8, 8, 3).cuda()(image()), "although it is switched off"),
        (benchmark, lambda: nn.Conv2d(8, 8, 3).cuda()(image()), "without benchmarks"),
        (tf32, lambda: image() @ image(), "in TF32"),
    ],
)
def test_a_switch_that_asks_for_other_kernels_is_told(
    gpu, switches, monkeypatch, switch, run, told
):
    switch(monkeypatch)
    run()
    found = [taken for asked, taken in gpu.values.assumed if asked == MODE]
    assert found
    assert all(told in taken for taken in found)


def test_no_mode_is_told_where_no_switch_asks_for_anything(gpu):
    nn.Conv2d(8, 8, 3).cuda()(image() @ image() + 1)
    assert [asked for asked, _ in gpu.values.assumed] == ["rule"]


def test_kernels_in_whose_place_others_run_are_told(gpu):
    tokens = image()[0]
    nn.MultiheadAttention(8, 2, batch_first=True).cuda().eval()(tokens, tokens, tokens)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    nn.TransformerEncoder(layer, 2).cuda().eval()(tokens)
    nn.LSTM(8, 8).cuda()(tokens)
    told = [taken for asked, taken in gpu.values.assumed if asked == MODE]
    assert sorted(told) == [
        "lstm runs step by step, where cuDNN runs one kernel",
        "nn.MultiheadAttention runs as in training, where it has a fused path",
    ]
