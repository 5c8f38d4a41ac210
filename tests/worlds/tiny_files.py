"""Checkpoints in one file, of the tiny pipelines: real weights, in the layouts that such files have."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from original_layouts import ldm_clip, ldm_unet, ldm_vae
from safetensors.torch import save_file
from tiny_flux import write_tiny_flux
from tiny_folder import write_tiny_pipeline

from profiler.pipelines import load_pipeline

if TYPE_CHECKING:
    from pathlib import Path


class TinyFile(NamedTuple):
    """A checkpoint, and the folder with the configuration of its pipeline."""

    path: Path
    folder: Path


def stable_diffusion(root, *, dtype=torch.float16, vae_dtype=None, extra=None):
    """Write a Stable Diffusion in LDM's layout.

    Args:
        root: the folder to write to.
        dtype: of its tensors.
        vae_dtype: of its VAE's, if another.
        extra: further tensors.
    """
    folder = write_tiny_pipeline(root / "sd")
    pipe = load_pipeline(str(folder), weights="random")
    tensors = {
        **_in(dtype, ldm_unet(pipe.unet)),
        **_in(vae_dtype or dtype, ldm_vae(pipe.vae)),
        **_in(dtype, ldm_clip(pipe.text_encoder)),
        **(extra or {}),
    }
    save_file(tensors, root / "sd.safetensors")
    return TinyFile(root / "sd.safetensors", folder)


def flux(root, *, dtype=torch.bfloat16):
    """Write the transformer of a FLUX.1 in diffusers' layout, which diffusers loads from one file, too."""
    folder = write_tiny_flux(root / "flux")
    pipe = load_pipeline(str(folder), weights="random")
    save_file(_in(dtype, pipe.transformer.state_dict()), root / "flux.safetensors")
    return TinyFile(root / "flux.safetensors", folder)


def flux_in_gguf(root, kind_of):
    """Write the same in GGUF, of zeros.

    Args:
        root: the folder to write to.
        kind_of: a function from name and tensor to the name of a type: "F32", "Q4_K".
    """
    import gguf

    folder = write_tiny_flux(root / "flux")
    writer = gguf.GGUFWriter(root / "flux.gguf", "flux")
    for name, tensor in load_pipeline(str(folder)).transformer.state_dict().items():
        kind = gguf.GGMLQuantizationType[kind_of(name, tensor)]
        shape = tuple(tensor.shape)
        if kind.name == "F32":
            writer.add_tensor(name, np.zeros(shape, np.float32))
        elif kind.name == "F16":
            writer.add_tensor(name, np.zeros(shape, np.float16))
        else:
            packed = np.zeros(gguf.quant_shape_to_byte_shape(shape, kind), np.uint8)
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyFile(root / "flux.gguf", folder)


def _in(dtype, tensors):
    return {name: tensor.to(dtype).contiguous().clone() for name, tensor in tensors.items()}
