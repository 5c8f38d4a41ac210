"""diffusers' group offload of one component after another, by its public calls.

Torch is imported only in the functions that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiler.libraries.modes import Mode


def group_options(
    device: Any,
    *,
    blocks: int | None,
    stream: bool = False,
    record_stream: bool = False,
    low_cpu_mem: bool = False,
) -> dict[str, Any]:
    """Return the arguments of diffusers' group offload.

    Args:
        device: the device on which the groups compute.
        blocks: blocks per group at block level; None for leaf level.
        stream: copy on a second stream while computing.
        record_stream: with `stream`: let the allocator track uses instead of synchronizing.
        low_cpu_mem: with `stream`: pin tensors while they are sent, not beforehand.
    """
    import torch

    return {
        "onload_device": torch.device(device),
        "offload_device": torch.device("cpu"),
        "offload_type": "leaf_level" if blocks is None else "block_level",
        "num_blocks_per_group": blocks,
        "use_stream": stream,
        "record_stream": record_stream,
        "low_cpu_mem_usage": low_cpu_mem,
    }


def group_component(part: Any, options: dict[str, Any], folder: Path | None = None) -> None:
    """Offload one component in groups, as the pipeline's method does; on disk, into a folder of its own.

    diffusers 0.42 names the files by group alone, and takes an existing file for its own: in a single folder, which is
    all that the pipeline's method can be given, components with groups of the same name get each other's weights.
    """
    from diffusers.hooks import apply_group_offloading

    own = options if folder is None else {**options, "offload_to_disk_path": str(folder)}
    if hasattr(part, "enable_group_offload"):
        part.enable_group_offload(**own)
    else:
        apply_group_offloading(part, **own)


def group_options_of(mode: Mode, device: Any) -> dict[str, Any]:
    """Return the arguments of diffusers' group offload for a group mode."""
    return group_options(
        device,
        blocks=(mode.blocks or 1) if mode.name == "group-block" else None,
        stream=mode.stream,
        record_stream=mode.record_stream,
    )


def modules_in(pipe: Any) -> dict[str, Any]:
    """Return the components of a pipeline that are modules, by name."""
    import torch

    parts = pipe.components.items()
    return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}
