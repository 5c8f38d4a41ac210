"""A diffusers folder of a Stable Diffusion so small that it runs in a blink."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler"},
    "text_encoder/config.json": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": 32,
    },
    "tokenizer/tokenizer_config.json": {"model_max_length": 77},
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": 8,
        "block_out_channels": [32, 64],
        "cross_attention_dim": 32,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": 1,
        "sample_size": 16,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "latent_channels": 4,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    },
}


def write_tiny_pipeline(folder: Path) -> Path:
    """Write the folder's JSON files, and return it."""
    for name, config in {"model_index.json": _INDEX, **_CONFIGS}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    return folder
