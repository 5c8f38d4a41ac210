"""An operator without a rule for its memory widens the band; `test_loading_runs.py` meets none in the catalogue."""

from __future__ import annotations

import pytest
import torch

from profiler.tracing import trace
from profiler.virtual import VirtualGPU


@torch.library.custom_op("vram_tests::halve", mutates_args=())
def halve(image: torch.Tensor) -> torch.Tensor:
    """An operator without a kernel for `meta`."""
    return image / 2


class Halver(torch.nn.Module):
    def forward(self, image):
        return halve(image)


def test_an_operator_that_nobody_knows_is_an_assumption_and_widens_the_band():
    with VirtualGPU("h200"):
        image = torch.ones(1 << 20, device="cuda")
        with trace(Halver()) as tracing:
            found = Halver()(image)
        assert (found.shape, found.dtype, found.device) == (image.shape, image.dtype, image.device)
    profile = tracing.profile
    assert [assumption.what for assumption in profile.assumptions] == [
        "operator: vram_tests.halve takes no memory beside inputs and outputs"
    ]
    # At the peak, input and output are there; it may need both once more.
    assert profile.totals.peak_allocated_bytes == 8 << 20
    assert profile.error_band == pytest.approx(0.01 + 1.0)
