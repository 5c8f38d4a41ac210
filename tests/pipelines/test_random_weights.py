"""`load_pipeline(..., weights="random")`: the same tensors as without weights, real and filled."""

import pytest
import torch
from tiny_folder import write_tiny_pipeline

from profiler.errors import InputError
from profiler.libraries.modules import components_of, tensors_of
from profiler.pipelines import load_pipeline
from profiler.pipelines.random_weights import fill_at_random
from profiler.virtual import VirtualGPU


def kinds(pipe):
    return {
        name: [(tuple(tensor.shape), tensor.dtype) for tensor in tensors_of(part)]
        for name, part in components_of(pipe).items()
    }


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_random_weights_are_real_finite_and_of_the_same_shapes(tmp_path, dtype):
    folder = write_tiny_pipeline(tmp_path / "tiny")
    pipe = load_pipeline(folder, dtype=dtype, weights="random")
    assert kinds(pipe) == kinds(load_pipeline(folder, dtype=dtype))
    for part in components_of(pipe).values():
        for parameter in part.parameters():
            assert parameter.device.type == "cpu"
            assert parameter.isfinite().all()
            assert parameter.numel() == 1 or parameter.float().std() > 0


def test_a_pipeline_with_random_weights_runs(tmp_path):
    pipe = load_pipeline(write_tiny_pipeline(tmp_path / "tiny"), weights="random")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a cat", num_inference_steps=1, height=32, width=32, output_type="pt").images
    assert image.shape == (1, 3, 32, 32)
    assert image.isfinite().all()


def test_ties_stay_ties_and_integers_are_zeros():
    module = torch.nn.Module()
    module.one = torch.nn.Linear(3, 3)
    module.other = torch.nn.Linear(3, 3)
    module.other.weight = module.one.weight
    module.codes = torch.nn.Parameter(torch.full((4,), 7), requires_grad=False)
    fill_at_random(module)
    assert module.other.weight is module.one.weight
    assert module.codes.tolist() == [0, 0, 0, 0]
    spread = module.one.weight.std().item()
    assert 0 < spread < 0.1


def test_weights_are_none_or_random_and_not_inside_a_virtual_gpu(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "tiny")
    with pytest.raises(InputError, match="unknown weights 'zeros'"):
        load_pipeline(folder, weights="zeros")
    with VirtualGPU("h200"), pytest.raises(InputError, match=r"use gpu\.lend"):
        load_pipeline(folder, weights="random")
