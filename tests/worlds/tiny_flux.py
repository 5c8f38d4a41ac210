"""A diffusers folder of a FLUX.1 so small that it runs in a blink, in widths that every quantisation can pack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TRANSFORMER: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 8,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 256,
    "axes_dims_rope": [8, 12, 12],
    "guidance_embeds": True,
}
T5: dict[str, Any] = {
    "d_model": 256,
    "d_kv": 32,
    "d_ff": 512,
    "num_layers": 2,
    "num_heads": 8,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}
_INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "text_encoder/config.json": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": 256,
    },
    "text_encoder_2/config.json": T5,
    "tokenizer/tokenizer_config.json": {"model_max_length": 77},
    "tokenizer_2/tokenizer_config.json": {"model_max_length": 512},
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "latent_channels": 16,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        "shift_factor": 0.1,
        "scaling_factor": 0.4,
    },
}


def write_tiny_flux(folder: Path, **transformer: Any) -> Path:
    """Write the folder's JSON files, with further entries in the transformer's, and return it."""
    files = {
        "model_index.json": _INDEX,
        **_CONFIGS,
        "transformer/config.json": {**TRANSFORMER, **transformer},
    }
    for name, config in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    return folder
