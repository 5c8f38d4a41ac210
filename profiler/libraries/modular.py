"""Placement of a modular pipeline, which has no call for a mode but `to()`: its components are placed one by one.

Model offload is a `ComponentsManager`'s: a model is onloaded when it runs, and others are offloaded as far as the free
memory asks for it. It sees no end of a call: whatever ran last stays on the GPU. Source: diffusers 0.42.1,
`modular_pipelines/components_manager.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.libraries.grouping import group_component, group_options_of, modules_in

if TYPE_CHECKING:
    from profiler.libraries.modes import Mode

MANAGER = "_components_manager"
"""The attribute in which a modular pipeline keeps its manager."""


def is_modular(pipe: Any) -> bool:
    """Tell whether a pipeline is made of blocks."""
    return hasattr(pipe, "blocks") and not hasattr(pipe, "enable_model_cpu_offload")


def place_modular(pipe: Any, mode: Mode, *, device: Any) -> None:
    """Place a modular pipeline as `mode` says, by the calls that a user would make.

    Raises:
        NotImplementedError: if a component's class refuses it.
    """
    match mode.name:
        case "resident":
            pipe.to(device)
        case "model":
            manage(pipe, device)
        case _:
            _split(pipe, mode, device)


def manage(pipe: Any, device: Any, strategy: Any = None) -> Any:
    """Let a `ComponentsManager` offload the pipeline's components, the pipeline's own or a new one, and return it.

    Args:
        pipe: A modular pipeline.
        device: The device on which the components compute.
        strategy: The offload strategy; diffusers' own if None.
    """
    from diffusers import ComponentsManager

    manager = getattr(pipe, MANAGER, None) or ComponentsManager()
    there = list(manager.components.values())
    for name, part in modules_in(pipe).items():
        if not any(part is one for one in there):
            manager.add(name, part)
    manager.enable_auto_cpu_offload(device)
    if strategy is not None:
        manager.set_offload_strategy(strategy)
    setattr(pipe, MANAGER, manager)
    return manager


def _split(pipe: Any, mode: Mode, device: Any) -> None:
    import torch
    from accelerate import cpu_offload

    for name, part in modules_in(pipe).items():
        if name in mode.keep:
            part.to(device)
        elif mode.name == "sequential":
            cpu_offload(part, torch.device(device), offload_buffers=len(part._parameters) > 0)
        else:
            folder = Path(mode.disk) / name if mode.disk else None
            group_component(part, group_options_of(mode, device), folder)
