"""Tiny real pipelines of several families, and everything that can be read off a virtual GPU after a traced call."""

from __future__ import annotations

import dataclasses

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from profiler.libraries.modes import Mode
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

_BLOCKS = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}
_CONTROL = {**_BLOCKS, "conditioning_embedding_out_channels": (16, 32)}
_UNET = {**_BLOCKS, "sample_size": 16, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
_SMALL = {"height": 64, "width": 64, "output_type": "latent"}


def _vae():
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )


def _embeds(*shape):
    return torch.randn(*shape, dtype=torch.float16, device="cuda")


def _of_clip():
    return {"prompt_embeds": _embeds(1, 77, 32), "negative_prompt_embeds": _embeds(1, 77, 32)}


def sd15(scheduler=DDIMScheduler):
    pipe = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=UNet2DConditionModel(**_UNET),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe, {**_of_clip(), **_SMALL, "output_type": "pil"}


def sd15_dpm():
    return sd15(DPMSolverMultistepScheduler)


def sdxl(pipeline=StableDiffusionXLPipeline):
    unet = UNet2DConditionModel(
        **_UNET,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = pipeline(vae=_vae(), unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    pooled = {
        name: _embeds(1, 32) for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    }
    return pipe, {**_of_clip(), **pooled, **_SMALL}


def sdxl_upcast():
    """The VAE decodes in float32, and is cast back."""
    pipe, call = sdxl()
    return pipe, {**call, "output_type": "pil"}


def sdxl_img2img():
    """The VAE is cast for encoding, and once more for decoding."""
    pipe, call = sdxl(StableDiffusionXLImg2ImgPipeline)
    del call["height"], call["width"]
    image = torch.zeros(1, 3, 64, 64)
    return pipe, {**call, "image": image, "strength": 0.7, "output_type": "pil"}


def controlnet():
    pipe = StableDiffusionControlNetPipeline(
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=UNet2DConditionModel(**_UNET),
        controlnet=ControlNetModel(**_CONTROL),
        scheduler=DPMSolverMultistepScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # It acts in the first half of the steps only, so that the UNet is called in two ways.
    more = {"image": torch.zeros(1, 3, 64, 64), "control_guidance_end": 0.5}
    return pipe, {**_of_clip(), **_SMALL, **more}


def flux():
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = FluxPipeline(vae=_vae(), transformer=transformer, scheduler=scheduler, **parts)
    embeds = {"prompt_embeds": _embeds(1, 16, 32), "pooled_prompt_embeds": _embeds(1, 32)}
    return pipe, {**embeds, **_SMALL}


def wan():
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    scheduler = UniPCMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )
    embeds = {"prompt_embeds": _embeds(1, 16, 32), "negative_prompt_embeds": _embeds(1, 16, 32)}
    return pipe, {**embeds, **_SMALL, "num_frames": 5}


def qwen_image():
    """With true guidance, and prompts of different lengths: two calls of the transformer a step, which differ."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )

    def prompt(prefix, length):
        mask = torch.ones(1, length, dtype=torch.int64, device="cuda")
        return {f"{prefix}_embeds": _embeds(1, length, 16), f"{prefix}_embeds_mask": mask}

    embeds = {**prompt("prompt", 7), **prompt("negative_prompt", 5)}
    return pipe, {**embeds, **_SMALL, "true_cfg_scale": 2.0}


FAMILIES = {
    make.__name__: make
    for make in (
        sd15,
        sd15_dpm,
        sdxl,
        sdxl_upcast,
        sdxl_img2img,
        controlnet,
        flux,
        wan,
        qwen_image,
    )
}


def _bounded(workspace_peak):
    at_bytes, workspace = workspace_peak
    return at_bytes, workspace, workspace.least, workspace.most


@dataclasses.dataclass
class Outcome:
    """All that a traced call told, and how many forwards were left out."""

    profile: dict
    statistics: dict
    segments: list
    seconds: tuple
    counts: tuple
    host: dict
    replayed: int = dataclasses.field(compare=False)


def outcome(
    family, *, mode="resident", options=None, replay=True, steps=7, prepare=None, **gpu_options
):
    """Run a family's pipeline twice in one GPU, first under the tracer, and return what can be read off afterwards.

    `prepare` is called with the pipeline, and returns more arguments of the call.
    """
    with VirtualGPU("rtx-4090", replay=replay, **gpu_options) as gpu:
        pipe, call = FAMILIES[family]()
        for name in ("unet", "transformer", "controlnet", "vae"):
            if hasattr(pipe, name):
                getattr(pipe, name).to(torch.float16)
        call |= (prepare or (lambda _: {}))(pipe)
        profile = profile_pipeline(
            pipe, mode=Mode(name=mode, **(options or {})), num_inference_steps=steps, **call
        )
        if profile.complete:
            pipe(num_inference_steps=3, **call)
        return Outcome(
            profile={
                field.name: getattr(profile, field.name) for field in dataclasses.fields(profile)
            },
            statistics=torch.cuda.memory_stats(),
            segments=torch.cuda.memory_snapshot(),
            seconds=(gpu.clock.host, gpu.clock.mark(0), tuple(gpu.clock.link_seconds)),
            counts=(
                gpu.h2d_bytes,
                gpu.d2h_bytes,
                gpu.dispatch.operators,
                _bounded(gpu.workspace_peak),
                gpu.most_peak_bytes,
                dict(gpu.values.assumed),
            ),
            host=(
                gpu.host.pageable_bytes,
                gpu.host.peak_pageable_bytes,
                gpu.host.peak_pinned_bytes,
                gpu.host.total_bytes,
                gpu.host.pinned.stats(),
            ),
            replayed=gpu.replay.replayed if gpu.replay else 0,
        )
