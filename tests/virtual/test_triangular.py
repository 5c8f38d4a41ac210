"""Systems with a triangle take what PyTorch's source says: addresses of a batch, and a copy of a triangle with gaps."""

from __future__ import annotations

import pytest
import torch

from profiler.virtual import VirtualGPU


@pytest.mark.parametrize(
    ("batch", "rows", "addresses"),
    [(32, 64, 2 * 512), (8, 64, 0), (8, 32, 2 * 512)],
    ids=["many", "few", "few and small"],
)
def test_addresses_of_a_batch(batch, rows, addresses):
    assert taken_bytes(torch.empty(batch, rows, rows)) == 4 * batch * rows * rows + addresses


def test_triangle_with_gaps_is_copied():
    cut = torch.empty(4, 128, 256)[:, :, :128]

    assert taken_bytes(cut) == 2 * 4 * 4 * 128 * 128


def taken_bytes(triangle):
    """Return the peak above the inputs, without cuBLAS's workspace."""
    with VirtualGPU("h200"):
        given = torch.empty_strided(triangle.shape, triangle.stride(), device="cuda")
        other = torch.empty(triangle.shape, device="cuda")
        torch.linalg.solve_triangular(given, other, upper=False)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.linalg.solve_triangular(given, other, upper=False)
        return torch.cuda.max_memory_allocated() - before
