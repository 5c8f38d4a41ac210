"""What the tests of loading share: byte counts, and tiny hyperparameters for every model class."""

from __future__ import annotations

import torch

_SD_VAE = {"block_out_channels": [8], "norm_num_groups": 4, "sample_size": 8}
_SD_UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
_CLIP = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}
_T5 = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2, "num_layers": 2, "vocab_size": 40}

# (library, class) to hyperparameters that make it tiny.
TINY = {
    ("diffusers", "AutoencoderKL"): _SD_VAE,
    ("diffusers", "AutoencoderKLCogVideoX"): {
        "block_out_channels": [8, 8, 8, 8],
        "norm_num_groups": 2,
        "layers_per_block": 1,
        "latent_channels": 4,
    },
    ("diffusers", "AutoencoderKLWan"): {"base_dim": 4, "num_res_blocks": 1},
    ("diffusers", "UNet2DConditionModel"): {
        **_SD_UNET,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    ("diffusers", "ControlNetModel"): {
        **_SD_UNET,
        "conditioning_embedding_out_channels": [4, 8],
    },
    ("diffusers", "FluxTransformer2DModel"): {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "pooled_projection_dim": 8,
        "axes_dims_rope": [2, 2, 4],
    },
    ("diffusers", "CogVideoXTransformer3DModel"): {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "text_embed_dim": 8,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 5,
    },
    ("diffusers", "WanTransformer3DModel"): {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 1,
        "ffn_dim": 16,
        "text_dim": 8,
        "freq_dim": 8,
    },
    ("diffusers", "ZImageTransformer2DModel"): {
        "dim": 16,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 8,
        "axes_dims": [2, 2, 4],
        "axes_lens": [8, 8, 8],
    },
    ("diffusers", "SD3Transformer2DModel"): {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 8,
        "sample_size": 8,
    },
    ("diffusers", "PixArtTransformer2DModel"): {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "sample_size": 8,
    },
    ("diffusers", "ChromaTransformer2DModel"): {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": [2, 2, 4],
        "approximator_hidden_dim": 8,
        "approximator_layers": 1,
    },
    ("diffusers", "Flux2Transformer2DModel"): {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": [2, 2, 2, 2],
    },
    ("diffusers", "QwenImageTransformer2DModel"): {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": [2, 2, 4],
    },
    ("diffusers", "LTXVideoTransformer3DModel"): {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "cross_attention_dim": 16,
        "caption_channels": 8,
    },
    ("diffusers", "AutoencoderKLLTXVideo"): {
        "block_out_channels": [8, 8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8, 8],
        "latent_channels": 4,
        "layers_per_block": [1, 1, 1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1, 1, 1],
    },
    ("diffusers", "AutoencoderKLQwenImage"): {"base_dim": 4, "num_res_blocks": 1},
    ("diffusers", "AutoencoderKLFlux2"): {
        **_SD_VAE,
        "block_out_channels": [8, 8, 8, 8],
        "latent_channels": 4,
    },
    ("transformers", "Qwen3ForCausalLM"): {
        **_CLIP,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 40,
        "tie_word_embeddings": True,
    },
    ("transformers", "Qwen2_5_VLForConditionalGeneration"): {
        "text_config": {
            **_CLIP,
            "num_key_value_heads": 2,
            "vocab_size": 40,
            "rope_scaling": {"type": "default", "mrope_section": [1, 1, 0]},
        },
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_heads": 2,
            "depth": 1,
            "out_hidden_size": 8,
        },
    },
    ("transformers", "CLIPTextModel"): _CLIP,
    ("transformers", "CLIPTextModelWithProjection"): {**_CLIP, "projection_dim": 8},
    ("transformers", "T5EncoderModel"): {**_T5, "feed_forward_proj": "gated-gelu"},
    ("transformers", "UMT5EncoderModel"): _T5,
    ("transformers", "Qwen3Model"): {
        **_CLIP,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 40,
    },
    ("diffusers", "AutoencoderDC"): {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "encoder_layers_per_block": [1, 1],
        "decoder_layers_per_block": [1, 1],
        "encoder_qkv_multiscales": [[], [5]],
        "decoder_qkv_multiscales": [[], [5]],
    },
    ("diffusers", "AutoencoderKLTemporalDecoder"): {
        "block_out_channels": [32],
        "sample_size": 8,
    },
    ("diffusers", "AutoencoderKLHunyuanVideo"): {
        "block_out_channels": [8, 8, 8, 8],
        "norm_num_groups": 2,
        "layers_per_block": 1,
        "latent_channels": 4,
    },
    ("diffusers", "AutoencoderKLMochi"): {
        "encoder_block_out_channels": [32, 32, 32, 32],
        "decoder_block_out_channels": [32, 32, 32, 32],
        "layers_per_block": [1, 1, 1, 1, 1],
    },
    ("diffusers", "AutoencoderKLAllegro"): {
        "block_out_channels": [8, 8, 8, 8],
        "norm_num_groups": 2,
        "layers_per_block": 1,
    },
    ("diffusers", "UNetSpatioTemporalConditionModel"): {
        "block_out_channels": [32, 32],
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        "num_attention_heads": [2, 2],
        "cross_attention_dim": 8,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "layers_per_block": 1,
    },
    ("diffusers", "AuraFlowTransformer2DModel"): {
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 16,
        "sample_size": 8,
    },
    ("diffusers", "HunyuanDiT2DModel"): {
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "in_channels": 4,
        "patch_size": 2,
        "sample_size": 8,
        "cross_attention_dim": 8,
        "cross_attention_dim_t5": 8,
        "pooled_projection_dim": 8,
        "text_len": 4,
        "text_len_t5": 4,
    },
    ("diffusers", "SanaTransformer2DModel"): {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "sample_size": 8,
    },
    ("diffusers", "HunyuanVideoTransformer3DModel"): {
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "text_embed_dim": 8,
        "pooled_projection_dim": 8,
        "rope_axes_dim": [2, 2, 4],
    },
    ("diffusers", "MochiTransformer3DModel"): {
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "pooled_projection_dim": 8,
        "text_embed_dim": 8,
        "time_embed_dim": 4,
    },
    ("diffusers", "AllegroTransformer3DModel"): {
        "num_layers": 1,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "cross_attention_dim": 24,
        "caption_channels": 8,
        "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 4,
    },
    ("transformers", "LlamaModel"): {**_CLIP, "num_key_value_heads": 2, "vocab_size": 40},
    ("transformers", "Gemma2Model"): {
        **_CLIP,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 40,
    },
    ("transformers", "BertModel"): {**_CLIP, "vocab_size": 40},
    ("transformers", "CLIPVisionModelWithProjection"): {
        **_CLIP,
        "projection_dim": 8,
        "image_size": 8,
        "patch_size": 4,
    },
    ("transformers", "Mistral3ForConditionalGeneration"): {
        "tie_word_embeddings": False,
        "text_config": {**_CLIP, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 40},
        "vision_config": {**_CLIP, "head_dim": 4, "image_size": 8, "patch_size": 4},
    },
    ("kolors", "ChatGLMModel"): {
        "num_layers": 1,
        "padded_vocab_size": 40,
        "hidden_size": 8,
        "ffn_hidden_size": 16,
        "kv_channels": 4,
        "num_attention_heads": 2,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "original_rope": True,
        "seq_length": 16,
    },
    ("stable_diffusion", "StableDiffusionSafetyChecker"): {
        "projection_dim": 8,
        "text_config": _CLIP,
        "vision_config": {**_CLIP, "image_size": 8, "patch_size": 4},
    },
}


def tensors(module):
    """Return parameters and buffers by name, ties once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def bytes_by_dtype(module):
    """Return how many bytes of parameters and buffers a module has in each dtype."""
    found: dict[str, int] = {}
    for tensor in tensors(module).values():
        name = str(tensor.dtype).removeprefix("torch.")
        found[name] = found.get(name, 0) + tensor.numel() * tensor.element_size()
    return found


def counts(pipe):
    """Return per component its class, parameters, elements of buffers, and bytes by dtype."""
    return {
        name: (
            type(module).__name__,
            sum(parameter.numel() for parameter in module.parameters()),
            sum(buffer.numel() for buffer in module.buffers()),
            bytes_by_dtype(module),
        )
        for name, module in pipe.components.items()
        if isinstance(module, torch.nn.Module)
    }
