"""The present mode of a loaded pipeline, with its options, so that a twin can be placed in the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.libraries import offload_state as hooks
from profiler.libraries.modes import DEFAULT_MODE, MODES, Mode
from profiler.libraries.modular import is_modular
from profiler.libraries.modules import components_of


def is_unplaced(pipe: Any) -> bool:
    """Tell whether nothing of a pipeline is on a GPU, or carries hooks that would bring it there."""
    modules = components_of(pipe)
    if hooks.mode_of(pipe, modules) != "resident":
        return False
    tensors = (tensor for module in modules.values() for tensor in module.parameters())
    return all(tensor.device.type in ("cpu", "meta") for tensor in tensors)


def default_mode(pipe: Any) -> Mode:
    """Return the mode for an unplaced pipeline: the default, or resident if it cannot be offloaded that way."""
    offloads = bool(hooks.sequence_of(pipe)) or is_modular(pipe)
    return Mode(name=DEFAULT_MODE if offloads else "resident")


def own_mode(pipe: Any) -> Mode:
    """Return the mode of a pipeline, with the options of its group offload.

    Raises:
        InputError: if no single call of diffusers makes it.
    """
    modules = components_of(pipe)
    name = hooks.mode_of(pipe, modules)
    if name == "mixed":
        raise InputError("this pipe mixes several offload modes: say with mode= which one to size")
    if name not in MODES:
        raise InputError(f"this pipe is {name} by a plan: say with mode= which mode to size")
    return _grouped(name, modules) if name.startswith("group") else Mode(name=name)


def is_in_mode(pipe: Any, mode: Mode) -> bool:
    """Tell whether a pipeline is placed in a mode with its options; settings beside the placement are ignored."""
    try:
        own = own_mode(pipe)
    except InputError:
        return False
    blocks = mode.blocks or (1 if mode.name == "group-block" else None)
    settings = replace(own, vae_tiling=mode.vae_tiling, vae_slicing=mode.vae_slicing)
    settings = replace(settings, layerwise_casting=mode.layerwise_casting, keep=mode.keep)
    return settings == replace(mode, blocks=blocks)


def _grouped(name: str, modules: dict[str, nn.Module]) -> Mode:
    """Return the mode of a pipeline whose components all have the same groups."""
    configs = {component: private.group_config(module) for component, module in modules.items()}
    loose = [component for component, config in configs.items() if config is None]
    if loose:
        raise InputError(
            f"this pipe offloads in groups, but not {', '.join(loose)}: say with mode= which mode to size"
        )
    modes = {_mode(name, config) for config in configs.values()}
    if len(modes) > 1:
        raise InputError(
            "this pipe offloads its components in groups of several kinds: say with mode= which mode to size"
        )
    return modes.pop()


def _mode(name: str, config: Any) -> Mode:
    by_blocks = name == "group-block"
    stream = config.stream is not None
    return Mode(
        name=name,
        stream=stream,
        record_stream=config.record_stream and stream,
        blocks=config.num_blocks_per_group if by_blocks else None,
        disk=config.offload_to_disk_path or "",
    )
