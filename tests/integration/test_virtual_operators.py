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
def test_a_choice_of_two_numbers_is_where_the_mask_is(gpu, device):
    mask = torch.tensor([True, False], device=device)

    chosen = torch.where(mask, 1.0, 2.0)

    assert (chosen.device.type, chosen.tolist()) == (device, [1.0, 2.0])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_legacy_tensor_is_made_of_the_values_of_virtual_ones(gpu, device):
    numbers = torch.arange(1, 4, device=device)

    assert torch.Tensor([2 * number for number in numbers]).tolist() == [2, 4, 6]


def test_float_of_a_virtual_tensor_is_its_value_or_a_counted_zero(gpu):
    assert float(torch.full((1,), 2.5, device="cuda")) == 2.5
    assert float(torch.randn(1, device="cuda")) == 0.0
    assert dict(gpu.values.assumed) == {("item", "zeros"): 1}


@pytest.mark.filterwarnings("ignore:__array__")  # numpy, of torch's own tensors
def test_a_batch_norm_that_does_not_train_has_its_value(gpu):
    norm = torch.nn.BatchNorm1d(3, eps=0.0).eval().to("cuda")
    norm.running_mean.fill_(1.0)
    with torch.no_grad():
        assert norm(torch.full((2, 3), 3.0, device="cuda")).tolist() == [[2.0] * 3] * 2


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


def attention_options(masked):
    seen = torch.ones(4, 4, dtype=torch.bool).tril(1)
    return {
        "no": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": seen},
        "added": {"attn_mask": torch.zeros(4, 4).masked_fill(~seen, -1.0)},
    }[masked]


def attended(numbers, masked):
    # Looked up for each call, since a virtual GPU serves it.
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(numbers, numbers, numbers, **attention_options(masked))


@pytest.mark.parametrize("masked", ["no", "causal", "boolean", "added"])
def test_attention_on_the_host_gives_the_values_of_real_tensors(masked):
    numbers = torch.arange(64.0).reshape(2, 4, 8).sin()
    real = attended(numbers, masked)
    with VirtualGPU("rtx-4090"):
        found = attended(numbers + 0, masked)
        values = found.flatten().tolist()

    assert (found.device.type, found.shape) == ("cpu", real.shape)
    assert values == pytest.approx(real.flatten().tolist(), abs=1e-6)


@pytest.mark.parametrize("masked", ["no", "causal", "boolean", "added"])
def test_attention_on_the_host_holds_no_scores_of_pictures(masked):
    tokens = 4096
    with VirtualGPU("rtx-4090") as gpu:
        numbers = torch.zeros(1, 2, tokens, 8)
        masks = {
            name: mask.repeat(tokens // 4, tokens // 4) if name == "attn_mask" else mask
            for name, mask in attention_options(masked).items()
        }
        before_bytes = gpu.host.total_bytes
        gpu.host.take_peak()
        found = torch.nn.functional.scaled_dot_product_attention(*[numbers] * 3, **masks)
        added_bytes = gpu.host.take_peak() - before_bytes

    assert (found.device.type, found.shape) == ("cpu", numbers.shape)
    assert added_bytes < 4 * 2 * tokens**2  # a score for each head and pair of tokens
