"""Adapters as their files hold them, made here: LoRA and IP-Adapter state dicts of the shapes that a model asks for."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModelWithProjection

from profiler.pipelines.building import build_module


def lora_state_dict(model, prefix, rank, dtype, names=("to_q", "to_k", "to_v", "to_out.0")):
    """Return a LoRA of `rank` for the attention projections of `model`, under `prefix` as diffusers saves it."""
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(names):
            key = f"{prefix}.{name}"
            state[f"{key}.lora_A.weight"] = torch.zeros(rank, module.in_features, dtype=dtype)
            state[f"{key}.lora_B.weight"] = torch.zeros(module.out_features, rank, dtype=dtype)
    return state


def nbytes(state):
    """Return the bytes of a state dict."""
    return sum(tensor.nbytes for tensor in state.values())


def load_ip_adapter(pipe, tokens=4):
    """Load an IP-Adapter into a Stable Diffusion pipe, with a small image encoder, and return the adapter's bytes."""
    encoder = build_module(
        CLIPVisionModelWithProjection,
        {
            "hidden_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "projection_dim": 256,
        },
        pipe.unet.dtype,
    )
    pipe.register_modules(image_encoder=encoder)
    width = pipe.unet.config.cross_attention_dim
    projection = {
        "proj.weight": (tokens * width, 256),
        "proj.bias": (tokens * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    crossing = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    attentions = [pipe.unet.get_submodule(name.removesuffix(".processor")) for name in crossing]
    adapter = {
        f"{2 * index + 1}.to_{way}_ip.weight": (attention.to_k.out_features, width)
        for index, attention in enumerate(attentions)
        for way in ("k", "v")
    }
    state = {
        part: {name: torch.zeros(shape, dtype=pipe.unet.dtype) for name, shape in shapes.items()}
        for part, shapes in (("image_proj", projection), ("ip_adapter", adapter))
    }
    pipe.load_ip_adapter(state, subfolder=None, weight_name=None, image_encoder_folder=None)
    return sum(tensor.nbytes for part in state.values() for tensor in part.values())
