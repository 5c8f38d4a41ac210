"""Functions of torch whose C++ decides by device, or reads values, before an operator is dispatched."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

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


def in_inference_mode(device):
    """Return what views and writes come to there, of tensors that were made inside and outside."""
    outside = torch.arange(6.0, device=device)
    with torch.inference_mode():
        inside = torch.ones(6, device=device)
        row = outside.view(2, 3)[1]
        row += inside[:3]
        product = torch.nn.functional.linear(row.expand(2, 3), inside.view(2, 3))
    return [*outside.tolist(), *product.flatten().tolist()]


def test_inference_mode_gives_what_real_tensors_give():
    real = in_inference_mode("cpu")
    with VirtualGPU("rtx-4090"):
        assert in_inference_mode("cuda") == real


def test_inference_mode_runs_the_same_kernels():
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with VirtualGPU("rtx-4090") as gpu:
            unet = UNet2DConditionModel(
                block_out_channels=(32, 64),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32,
            ).to("cuda", torch.float16)
            half = {"device": "cuda", "dtype": torch.float16}
            with mode():
                unet(torch.zeros(1, 4, 32, 32, **half), 3, torch.zeros(1, 77, 32, **half))
            found.append((gpu.allocator.peak_bytes, gpu.dispatch.operators, gpu.clock.host))
            assert {asked for asked, _ in gpu.values.assumed} <= {"cudnn", "rule"}
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (1, 8, 4, 16, 16)])
def test_convolutions_hand_on_channels_last(gpu, shape):
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    plain = torch.zeros(shape, device="cuda", dtype=torch.float16)
    make = torch.nn.Conv2d if len(shape) == 4 else torch.nn.Conv3d
    layer = make(8, 8, 3, padding=1).to("cuda", torch.float16)
    found = [layer(plain.to(memory_format=one)) for one in (torch.contiguous_format, last)]
    found.append(layer.to(memory_format=last)(plain))
    assert [one.is_contiguous(memory_format=last) for one in found] == [False, True, True]


def test_what_c_makes_where_it_believes_tensors_to_be_is_where_they_are(gpu):
    image = torch.arange(16.0, device="cuda").view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="circular")
    median = torch.quantile(image.flatten(), 0.5)
    assert (padded.device.type, padded.shape) == ("cuda", (1, 1, 6, 6))
    assert (median.device.type, median.shape) == ("cuda", ())


POINTWISE = {
    "div": lambda c, b: c / 2.0,
    "mul": lambda c, b: c * 2,
    "add": lambda c, b: c + b,
    "add to": lambda c, b: b + c,
    "sub": lambda c, b: 1 - c,
    "silu": lambda c, b: torch.nn.functional.silu(c),
    "clamp": lambda c, b: c.clamp(-1, 1),
    "half": lambda c, b: c.half(),
    "where": lambda c, b: torch.where(c > 0, c, b),
    "lerp": lambda c, b: torch.lerp(c, b, 0.5),
    "pow": lambda c, b: c**2,
}


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("pictures", [1, 2])
def test_pointwise_operators_lay_out_as_torch_does(name, pictures):
    """A VAE's attention hands on a transposed picture: taken for channels last, its convolutions would be others."""

    def strides(device):
        turned = torch.zeros(pictures, 64, 8, device=device).transpose(-1, -2)
        made = turned.reshape(pictures, 8, 8, 8)
        return POINTWISE[name](made, torch.zeros(pictures, 8, 8, 8, device=device)).stride()

    expected = strides("cpu")
    with VirtualGPU("rtx-4090"):
        assert strides("cuda") == expected
