"""Tiny pipelines with real weights on the CPU, as a user has loaded them, and all that there is to see of a pipe."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from profiler.pipelines.tokenizers import StandInTokenizer

_TEXT = CLIPTextConfig(
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_hidden_layers=3,
    projection_dim=32,
    eos_token_id=2,
    vocab_size=49408,
    max_position_embeddings=77,
)
_UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "sample_size": 16,
}
CALL = {"prompt": "a cat", "num_inference_steps": 1, "height": 32, "width": 32}


def _vae(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **config,
    ).eval()


def _tokenizer(length: int = 77) -> StandInTokenizer:
    facts = {"model_max_length": length, "bos": ("<s>", 0), "eos": ("</s>", 2), "pad": ("!", 1)}
    return StandInTokenizer("CLIPTokenizer", {**facts, "adds_bos": True, "adds_eos": True})


def sd15() -> StableDiffusionPipeline:
    """Return a Stable Diffusion pipeline."""
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_TEXT).eval(),
        tokenizer=_tokenizer(),
        unet=UNet2DConditionModel(**_UNET, cross_attention_dim=32).eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    """Return an SDXL pipeline, whose text encoders give the states of hidden layers."""
    unet = UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_TEXT).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_TEXT).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler(),
    )


def flux() -> FluxPipeline:
    """Return a FLUX.1 pipeline."""
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    t5 = T5Config(d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2, vocab_size=49408)
    return FluxPipeline(
        vae=_vae(shift_factor=0.1),
        text_encoder=CLIPTextModel(_TEXT).eval(),
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(64),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def call_of(pipe: Any) -> dict[str, Any]:
    """Return the arguments of a short call."""
    return {**CALL, "max_sequence_length": 64} if isinstance(pipe, FluxPipeline) else CALL


def run(pipe: Any) -> None:
    """Call the pipe once, for real."""
    pipe.set_progress_bar_config(disable=True)
    pipe(**call_of(pipe))
    del pipe._progress_bar_config


def figures(profile: Any) -> Any:
    """Return what of a profile does not depend on which host memory is virtual: components and the GPU's events."""
    parts = [(part.name, part.dtype, part.bytes) for part in profile.components]
    events = (
        (e.kind, e.component, e.entry, e.bytes, e.after_bytes, e.peak_bytes) for e in profile.events
    )
    return parts, list(events)


def everything(pipe: Any) -> dict[Any, Any]:
    """Return all that there is to see of a pipe: who is what, by id, and every tensor's place, layout and version."""
    seen: dict[Any, Any] = {}
    _look(pipe, "pipe", seen, set())
    return seen


def _look(value: Any, path: str, seen: dict[Any, Any], looked: set[int]) -> None:
    seen[path] = _fact(value)
    if id(value) in looked:
        return
    looked.add(id(value))
    if isinstance(value, dict):
        for name, part in value.items():
            _look(part, f"{path}[{name}]", seen, looked)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _look(part, f"{path}[{number}]", seen, looked)
    elif isinstance(value, nn.Module | ConfigMixin):
        for name, part in vars(value).items():
            _look(part, f"{path}.{name}", seen, looked)


def _fact(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        place = (value.data_ptr(), value._version, str(value.device), value.dtype)
        return (id(value), type(value), *place, value.stride(), value.requires_grad)
    if isinstance(value, str | int | float | bool | None):
        return value
    return id(value), type(value)
