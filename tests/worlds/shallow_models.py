"""Pipelines of the catalogue with few of their repeated layers: every kind of layer and hook, a tenth of the time."""

from __future__ import annotations

import inspect
from dataclasses import replace

from profiler.pipelines.building import find_class
from profiler.pipelines.catalogue import find_entry
from profiler.pipelines.loading import build_pipeline

LAYERS = (
    2  # text encoders give hidden states up to the third from the last, the embeddings among them
)
# The blocks of MiniMax-H3 read the hidden state after the 50th layer, and the connectors of Echo those of all 48.
DEEP = {"joyai-echo": 48, "minimax-h3": 51}
LEVELS = 2  # of a UNet, the lowest
_COUNTS = (
    "num_layers",
    "num_single_layers",
    "n_layers",
    "num_mmdit_layers",
    "num_single_dit_layers",
)
_BY_LEVEL = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "transformer_layers_per_block",
)
_SIZES_OF_A_BLOCK = ("layers_per_block", "num_res_blocks")


def shallow_pipeline(model, pipeline_class=""):
    """Return the pipe of a catalogue entry, or another over its components, with few of each repeated layer."""
    entry = find_entry(model)
    entry = replace(entry, pipeline_class=pipeline_class or entry.pipeline_class)
    components = {
        slot: part
        if part is None
        else replace(part, config=_shallow(part, DEEP.get(model, LAYERS)))
        for slot, part in entry.components.items()
    }
    return build_pipeline(replace(entry, components=components))


def _shallow(part, layers):
    if part.is_text_processor:
        return part.config
    cls = find_class(part.library, part.class_name)
    if not hasattr(cls, "forward"):
        return part.config
    if hasattr(cls, "config_class") and part.library != "diffusers":
        counted = any(name in part.class_name for name in ("T5", "ChatGLM"))
        count = "num_layers" if counted else "num_hidden_layers"
        return _shallow_text(dict(part.config), count, layers)
    return _shallow_model(cls, dict(part.config))


def _shallow_text(config, count, layers):
    nested = {
        name: _shallow_text(dict(value), count, layers)
        for name, value in config.items()
        if name in ("text_config", "vision_config")
    }
    return {**config, **nested} if nested else {**config, count: layers}


def _shallow_model(cls, config):
    if "UNet" in cls.__name__ or "ControlNet" in cls.__name__:
        config = _lower_levels(cls, config)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        value = config.get(name, parameter.default)
        if name == "transformer_layers_per_block":
            config[name] = 1
        elif name.endswith(_SIZES_OF_A_BLOCK) and value is not None:
            config[name] = 1 if isinstance(value, int) else type(value)(1 for _ in value)
        elif name in _COUNTS and value is not None:
            config[name] = min(value, LAYERS)
    return config


def _lower_levels(cls, config):
    """Return the configuration of a UNet, or of a ControlNet for it, with the lowest of its levels only."""
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        value = config.get(name, parameter.default)
        if name in _BY_LEVEL and isinstance(value, list | tuple):
            config[name] = value[:LEVELS] if name == "up_block_types" else value[-LEVELS:]
    return config
