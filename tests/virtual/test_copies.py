"""What a copy between host and GPU sends, and where it needs room, worked out from PyTorch's Copy.cu by hand."""

import pytest
import torch

from profiler.virtual.copies import LinkCopy, link_copy

UP, DOWN = ("cpu", "cuda"), ("cuda", "cpu")
HALF = torch.empty(4, 6, dtype=torch.float16, device="meta")  # 48 bytes
SINGLE = torch.empty(4, 6, dtype=torch.float32, device="meta")  # 96 bytes
SLICE = torch.empty(4, 12, dtype=torch.float16, device="meta")[:, ::2]


@pytest.mark.parametrize(
    ("devices", "source", "target", "non_blocking", "expected"),
    [
        # (bytes that cross, temporary on the host, temporary on the GPU)
        (UP, HALF, HALF, False, (48, 0, 0)),
        (DOWN, HALF.t(), HALF.t(), False, (48, 0, 0)),  # dense in the same order
        (UP, HALF, SINGLE, False, (96, 96, 0)),  # cast on the host
        (UP, HALF, SINGLE, True, (48, 0, 48)),  # cast on the GPU
        (DOWN, HALF, SINGLE, False, (48, 48, 0)),  # cast on the host
        (DOWN, HALF, SINGLE, True, (96, 0, 96)),  # cast on the GPU
        (DOWN, SLICE, HALF, False, (48, 0, 48)),  # made contiguous on the GPU
        (UP, SLICE, HALF, False, (48, 48, 0)),  # made contiguous on the host
        (UP, HALF, SLICE, False, (48, 0, 48)),  # spread out on the GPU
    ],
)
def test_what_crosses_and_what_it_needs_besides(devices, source, target, non_blocking, expected):
    found = link_copy(devices, source, target, non_blocking=non_blocking)
    assert found == LinkCopy(*devices, expected[0], non_blocking, *expected[1:])
