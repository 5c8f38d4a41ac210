"""Functions of torch whose C++ decides by device, or reads values, before an operator is dispatched."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from profiler.virtual import VirtualGPU


@pytest.fixture
def gpu():
    with VirtualGPU("rtx-4090") as gpu:
        yield gpu


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_legacy_tensor_is_made_of_the_values_of_virtual_ones(gpu, device):
    numbers = torch.arange(1, 4, device=device)

    assert torch.Tensor([2 * number for number in numbers]).tolist() == [2, 4, 6]


def test_float_of_a_virtual_tensor_is_its_value_or_a_counted_zero(gpu):
    assert float(torch.full((1,), 2.5, device="cuda")) == 2.5
    assert float(torch.randn(1, device="cuda")) == 0.0
    assert dict(gpu.values.assumed) == {("item", "zeros"): 1}


@pytest.mark.filterwarnings("ignore:__array__")  # numpy, of torch's own tensors
def test_continuous_timesteps_are_those_that_real_tensors_give():
    """Stable Video Diffusion's scheduler makes a legacy tensor of them, once built and once a call."""
    options = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    real = EulerDiscreteScheduler(**options)
    real.set_timesteps(4)
    with VirtualGPU("rtx-4090"):
        virtual = EulerDiscreteScheduler(**options)
        virtual.set_timesteps(4, device="cuda")

        assert virtual.timesteps.device.type == "cuda"
        found = virtual.timesteps.tolist()

    assert found == pytest.approx(real.timesteps.tolist())
