"""State dicts in the layouts of the original code, as checkpoints in one file have them: LDM's and FLUX's.

The other way round from diffusers' conversions: names are put back, and projections joined. Tensors on `meta` will do.
"""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def ldm_unet(module, prefix="model.diffusion_model."):
    """Return the tensors of a UNet under LDM's names."""
    layers = module.config.layers_per_block
    return {
        prefix + _unet_name(name, layers, module): tensor
        for name, tensor in module.state_dict().items()
    }


def _unet_name(name, layers, module):
    path, _, leaf = name.rpartition(".")
    if path in _UNET:
        return f"{_UNET[path]}.{leaf}"
    side, *words = path.split(".")
    if side == "mid_block":
        kind, number, *rest = words
        place = 1 if kind == "attentions" else 2 * int(number)
        return ".".join(["middle_block", str(place), *_inner(kind, rest), leaf])
    block, kind, number, *rest = words
    at = (layers + 1) * int(block)
    if kind == "downsamplers":
        return f"input_blocks.{at + layers + 1}.0.op.{leaf}"
    if kind == "upsamplers":
        has_attention = hasattr(module.up_blocks[int(block)], "attentions")
        return f"output_blocks.{at + layers}.{1 + has_attention}.conv.{leaf}"
    home, at = ("input_blocks", at + 1) if side == "down_blocks" else ("output_blocks", at)
    place = int(kind == "attentions")
    return ".".join([home, str(at + int(number)), str(place), *_inner(kind, rest), leaf])


def _inner(kind, rest):
    return rest if kind == "attentions" else [_RESNET[rest[0]], *rest[1:]]


def ldm_vae(module, prefix="first_stage_model."):
    """Return the tensors of an autoencoder under LDM's names, its attention as 1 x 1 convolutions."""
    last = len(module.config.up_block_types) - 1
    found = {}
    for name, tensor in module.state_dict().items():
        renamed = re.sub(
            r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name
        ).replace("down_blocks", "down")
        for old, new in (
            (".resnets.0", ".block_1") if "mid_block" in name else ("resnets", "block"),
            (".resnets.1", ".block_2"),
            ("mid_block", "mid"),
            ("attentions.0.group_norm", "attn_1.norm"),
            ("attentions.0.to_q", "attn_1.q"),
            ("attentions.0.to_k", "attn_1.k"),
            ("attentions.0.to_v", "attn_1.v"),
            ("attentions.0.to_out.0", "attn_1.proj_out"),
            ("conv_shortcut", "nin_shortcut"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_norm_out", "norm_out"),
        ):
            renamed = renamed.replace(old, new)
        is_projection = ".attn_1." in renamed and tensor.ndim == 2
        found[prefix + renamed] = tensor[:, :, None, None] if is_projection else tensor
    return found


def ldm_clip(module, prefix="cond_stage_model.transformer."):
    """Return the tensors of CLIP's text model as LDM keeps them."""
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in module.state_dict().items()
    }


def open_clip(module, prefix="conditioner.embedders.1.model."):
    """Return the tensors of CLIP's text model with a projection under OpenCLIP's names."""
    state = {name.removeprefix("text_model."): one for name, one in module.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
    }
    renamed = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for number in range(module.config.num_hidden_layers):
        old, new = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for leaf in ("weight", "bias"):
            found[f"{new}attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{old}self_attn.{one}_proj.{leaf}"] for one in "qkv"]
            )
            for before, after in renamed.items():
                found[f"{new}{after}.{leaf}"] = state[f"{old}{before}.{leaf}"]
    return {prefix + name: tensor for name, tensor in found.items()}


_FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}


def original_flux(module):
    """Return the tensors of FLUX.1's transformer under the names of its own code, with joined projections."""
    state = module.state_dict()
    found = _renamed(state, _FLUX)
    for number in range(module.config.num_layers):
        old, new = f"transformer_blocks.{number}.", f"double_blocks.{number}."
        found |= _renamed(state, _FLUX_DOUBLE, old, new)
        found |= _joined(state, f"{new}img_attn.qkv", [f"{old}attn.to_{one}" for one in "qkv"])
        found |= _joined(
            state, f"{new}txt_attn.qkv", [f"{old}attn.add_{one}_proj" for one in "qkv"]
        )
        found |= _scales(state, f"{old}attn.norm_", f"{new}img_attn.norm.")
        found |= _scales(state, f"{old}attn.norm_added_", f"{new}txt_attn.norm.")
    for number in range(module.config.num_single_layers):
        old, new = f"single_transformer_blocks.{number}.", f"single_blocks.{number}."
        found |= _renamed(state, _FLUX_SINGLE, old, new)
        joined = [*(f"{old}attn.to_{one}" for one in "qkv"), f"{old}proj_mlp"]
        found |= _joined(state, f"{new}linear1", joined)
        found |= _scales(state, f"{old}attn.norm_", f"{new}norm.")
    return found


def _renamed(state, names, old="", new=""):
    return {
        f"{new}{after}.{leaf}": state[f"{old}{before}.{leaf}"]
        for before, after in names.items()
        for leaf in ("weight", "bias")
        if f"{old}{before}.{leaf}" in state
    }


def _joined(state, name, parts):
    return {
        f"{name}.{leaf}": torch.cat([state[f"{part}.{leaf}"] for part in parts])
        for leaf in ("weight", "bias")
    }


def _scales(state, old, new):
    words = {"q": "query", "k": "key"}
    return {f"{new}{word}_norm.scale": state[f"{old}{one}.weight"] for one, word in words.items()}


_WORDS = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
}


def write_header(file: Path, tensors) -> Path:
    """Write a safetensors file of the full size with these tensors' header, and nothing but a hole for their data."""
    at, header = 0, {}
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    return file


def write_gguf_header(file: Path, tensors, kind_of) -> Path:
    """Write a GGUF file of the full size with the header of these tensors, and nothing but a hole for their data.

    Args:
        file: the file.
        tensors: the tensors by name.
        kind_of: a function from name and tensor to the name of a type: "F32", "Q4_K".
    """
    import gguf

    writer = gguf.GGUFWriter(file, "flux")
    data_bytes = 0
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType[kind_of(name, tensor)]
        shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), kind)
        nbytes = torch.Size(shape).numel()
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), nbytes, raw_dtype=kind)
        data_bytes += gguf.GGUFWriter.ggml_pad(nbytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    begin = gguf.GGUFWriter.ggml_pad(file.stat().st_size, writer.data_alignment)
    with file.open("r+b") as stream:
        stream.truncate(begin + data_bytes)
    return file
