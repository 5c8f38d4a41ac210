"""Modular pipelines of tiny components, and folders of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tiny_flux import write_tiny_flux

from profiler.pipelines import load_pipeline
from profiler.pipelines.modular import find_blocks, of_components

if TYPE_CHECKING:
    from pathlib import Path

CALL = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2}


def modular_flux(folder: Path, **options: Any) -> Any:
    """Return diffusers' own FLUX blocks over the components of a tiny FLUX.1, whose files go into `folder`."""
    pipe = load_pipeline(write_tiny_flux(folder), **options)
    return of_components(find_blocks("FluxAutoBlocks"), pipe.components, {})


def write_modular_flux(folder: Path, **index: Any) -> Path:
    """Write the folder of a modular FLUX.1 as `save_pretrained` lays it out, and return it."""
    write_tiny_flux(folder)
    plain = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").unlink()
    parts = {
        name: [
            *value,
            {"type_hint": value, "subfolder": name, "pretrained_model_name_or_path": "me/flux"},
        ]
        for name, value in plain.items()
        if isinstance(value, list) and value != [None, None]
    }
    blocks = {"_class_name": "FluxModularPipeline", "_blocks_class_name": "FluxAutoBlocks"}
    (folder / "modular_model_index.json").write_text(json.dumps({**blocks, **parts, **index}))
    return folder
