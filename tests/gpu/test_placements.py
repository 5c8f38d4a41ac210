"""On a real GPU: every placement runs, gives bit for bit what everything resident gives, and is taken back."""

import pytest
import torch
from placed_worlds import place, state_of, ways_on_a_gpu
from tiny_flux import write_tiny_flux

from profiler.applying import apply
from profiler.pipelines import load_pipeline

pytestmark = pytest.mark.gpu


def image(pipe):
    made = pipe(
        "a cat",
        height=16,
        width=16,
        max_sequence_length=8,
        num_inference_steps=2,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    )
    return made[0].cpu()


@pytest.fixture
def pipe(tmp_path):
    made = load_pipeline(write_tiny_flux(tmp_path / "flux"), weights="random")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.needs_values
def test_every_placement_gives_the_same_bits(pipe, tmp_path):
    before = state_of(pipe)
    expected = image(pipe.to("cuda"))
    pipe.to("cpu")
    for name, scheme in ways_on_a_gpu(pipe):
        with apply(place(pipe, **scheme), pipe, disk_folder=tmp_path / "disk"):
            for _ in range(2):
                assert torch.equal(image(pipe), expected), name
        assert state_of(pipe) == before, name
        assert torch.cuda.memory_allocated() < 64 << 20, name  # a workspace may stay


def test_every_placement_runs_and_is_taken_back(pipe, tmp_path):
    """What is left where no value is computed, as on the oracle's stand-in for a GPU."""
    before = state_of(pipe)
    for name, scheme in ways_on_a_gpu(pipe):
        with apply(place(pipe, **scheme), pipe, disk_folder=tmp_path / "disk"):
            for _ in range(2):
                assert image(pipe).shape == (1, 3, 16, 16), name
        assert state_of(pipe) == before, name
        assert torch.cuda.memory_allocated() < 64 << 20, name  # a workspace may stay
