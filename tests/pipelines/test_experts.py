"""A mixture of experts routes tokens by unknown values: evenly in the figures, and all alike for the error band."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

from profiler.pipelines.catalogue import Entry, Part, find_entry
from profiler.pipelines.loading import build_pipeline
from profiler.tracing import profile_pipeline
from profiler.tracing.predicted.reader import ROUNDING_BAND
from profiler.units import format_bytes
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS, EXPERTS, CHOSEN = 1001, 4, 2


def tokens_of_each_expert(*, crowded):
    with VirtualGPU("h200") as gpu:
        gpu.values.crowded = crowded
        moe = MOEFeedForwardSwiGLU(256, 512, EXPERTS, CHOSEN).to("cuda").eval()
        served = dict.fromkeys(range(EXPERTS), 0)
        for index, expert in enumerate(moe.experts):
            expert.register_forward_pre_hook(
                lambda _, inputs, index=index: served.update({index: inputs[0].shape[0]})
            )
        # More than a virtual tensor keeps the values of.
        moe(torch.randn(1, TOKENS, 256, device="cuda"))
        return list(served.values()), dict(gpu.values.assumed)


def test_tokens_go_evenly_to_all_experts():
    served, assumed = tokens_of_each_expert(crowded=False)

    assert served == [501, 501, 500, 500]  # 2 x 1001 choices
    assert assumed == {("routing", "tokens go evenly to all experts"): 1}


def test_at_the_other_bound_as_many_experts_are_full_as_a_token_chooses():
    served, assumed = tokens_of_each_expert(crowded=True)

    assert served == [1001, 1001, 0, 0]
    assert assumed == {("routing", "all tokens go to the same experts"): 1}


def test_known_routing_is_counted_not_assumed():
    with VirtualGPU("h200") as gpu:
        indices = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.3]]).topk(2).indices
        assert indices.flatten().bincount(minlength=3).tolist() == [1, 1, 2]
        assert not gpu.values.assumed


def hidream():
    """Return HiDream-I1's pipeline with one layer of each kind, its text encoders small."""
    flux = find_entry("flux1-dev").components
    sdxl = find_entry("sdxl-base").components

    def part(base, **changed):
        return replace(base, config={**base.config, **changed})

    def own(library, class_name, **config):
        return Part(library=library, class_name=class_name, config=config)

    clip = {**flux["text_encoder"].config, "num_hidden_layers": 1, "max_position_embeddings": 248}
    llama = {"num_hidden_layers": 2, "num_key_value_heads": 8, "vocab_size": 128264}
    return Entry(
        name="hidream",
        pipeline_class="HiDreamImagePipeline",
        dtype="bfloat16",
        components={
            "vae": flux["vae"],
            "text_encoder": own("transformers", "CLIPTextModelWithProjection", **clip),
            "tokenizer": part(flux["tokenizer"], model_max_length=248),
            "text_encoder_2": part(
                sdxl["text_encoder_2"], num_hidden_layers=1, max_position_embeddings=248
            ),
            "tokenizer_2": part(sdxl["tokenizer_2"], model_max_length=248),
            "text_encoder_3": part(flux["text_encoder_2"], num_layers=1),
            "tokenizer_3": flux["tokenizer_2"],
            "text_encoder_4": own("transformers", "LlamaForCausalLM", **llama),
            "tokenizer_4": find_entry("hunyuanvideo").components["tokenizer"],
            "scheduler": find_entry("z-image-turbo").components["scheduler"],
            "transformer": own(
                "diffusers",
                "HiDreamImageTransformer2DModel",
                patch_size=2,
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                caption_channels=[4096, 4096],
                axes_dims_rope=(64, 32, 32),
                llama_layers=[0, 1],
            ),
        },
    )


def test_a_pipeline_of_experts_tells_how_it_routes_them():
    with VirtualGPU("h200") as gpu:
        profile = profile_pipeline(
            build_pipeline(hidream()), mode="model", num_inference_steps=1, output_type="latent"
        )
        # One of each of two kinds of layers, one step.
        assert dict(gpu.values.assumed) == {("routing", "tokens go evenly to all experts"): 2}

    assert profile.error == ""
    told = [each for each in profile.assumptions if each.what.startswith("routing")]
    assert [(each.what, each.count) for each in told] == [
        ("routing: tokens go evenly to all experts", 2)
    ]
    assert told[0].effect.startswith("with all tokens at the same experts the peak is")


class ExpertModel(MOEFeedForwardSwiGLU):
    """Experts that a pipeline can place."""

    dtype = torch.float32

    @property
    def device(self):
        return next(self.parameters()).device


class Experts(DiffusionPipeline):
    """A pipeline that is nothing but experts, so that they make the peak."""

    model_cpu_offload_seq = "transformer"

    def __init__(self, transformer):
        super().__init__()
        self.register_modules(transformer=transformer)

    @torch.no_grad()
    def __call__(self, prompt="x", tokens=1 << 16):
        self.transformer(torch.randn(1, tokens, 256, device="cuda"))


def experts():
    return Experts(ExpertModel(256, 512, EXPERTS, CHOSEN).eval())


def alone(*, crowded):
    """Return the peak of the experts at one bound, on a GPU of their own."""
    with VirtualGPU("h200") as gpu:
        gpu.values.crowded = crowded
        experts().to("cuda")()
        return gpu.allocator.peak_bytes


def test_the_band_covers_all_tokens_at_the_same_experts():
    low_bytes, high_bytes = alone(crowded=False), alone(crowded=True)

    with VirtualGPU("h200") as gpu:
        profile = profile_pipeline(experts(), mode="resident")
        assert (gpu.values.crowded, gpu.values.assumed.total()) == (False, 1)

    assert high_bytes > 1.2 * low_bytes
    assert profile.totals.peak_allocated_bytes == low_bytes
    # No convolution among them: beside the bound there is only the band of every prediction.
    assert profile.error_band == pytest.approx(ROUNDING_BAND + high_bytes / low_bytes - 1)
    assert [each.effect for each in profile.assumptions] == [
        f"with all tokens at the same experts the peak is {format_bytes(high_bytes)}"
    ]


def test_a_bound_that_does_not_fit_says_so():
    with VirtualGPU("h200") as gpu:
        needed = profile_pipeline(experts(), mode="resident")
        context_bytes = gpu.spec.context_bytes
    capacity_bytes = needed.totals.device_bytes + (16 << 20)
    with VirtualGPU("h200", capacity=capacity_bytes):
        profile = profile_pipeline(experts(), mode="resident")

    assert profile.complete
    low_bytes = profile.totals.peak_allocated_bytes
    assert profile.error_band == pytest.approx(
        ROUNDING_BAND + (capacity_bytes - context_bytes) / low_bytes - 1
    )
    assert [each.effect for each in profile.assumptions] == [
        "with all tokens at the same experts it does not fit"
    ]
