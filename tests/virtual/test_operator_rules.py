"""Every operator that a GPU runs for the catalogue has a rule for its memory; an unknown one widens the band."""

from __future__ import annotations

import pytest
import torch

from profiler.pipelines import load_pipeline
from profiler.tracing import profile_pipeline, trace
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.learned import Operators
from profiler.virtual.operators.rules import name_of, rule_of

# Small calls of one model of each kind.
FAMILIES = {
    "sd15": {"height": 64, "width": 64},
    "sd3-medium": {"height": 128, "width": 128},
    "flux1-dev": {"height": 128, "width": 128},
    "qwen-image": {"height": 128, "width": 128},
    "sana-1600m": {"height": 256, "width": 256},
    "hunyuandit": {"height": 1024, "width": 1024},
    "kolors": {"height": 128, "width": 128},
    "cogvideox-2b": {"height": 96, "width": 96, "num_frames": 9},
    "wan2.1-t2v-1.3b": {"height": 96, "width": 96, "num_frames": 5},
    "ltx-video": {"height": 96, "width": 96, "num_frames": 9},
    "hunyuanvideo": {"height": 96, "width": 96, "num_frames": 5},
}


@pytest.fixture
def met(monkeypatch):
    """Return the set of operators that the GPU has worked on."""
    operators = set()
    learn = Operators.learn

    def spy(self, func, args, kwargs, tensors):
        entry = learn(self, func, args, kwargs, tensors)
        if entry.on_gpu:
            operators.add(func)
        return entry

    monkeypatch.setattr(Operators, "learn", spy)
    return operators


def test_every_operator_of_the_catalogue_has_a_rule(met):
    for model, call in FAMILIES.items():
        with VirtualGPU("h200"):
            profile = profile_pipeline(
                load_pipeline(model), mode="resident", num_inference_steps=2, **call
            )
        assert profile.complete, (model, profile.error)
        assert not [one for one in profile.assumptions if one.what.startswith("operator")], model
    assert len(met) > 70
    assert {name_of(func) for func in met if rule_of(func) is None} == set()


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
