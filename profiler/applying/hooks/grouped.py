"""`Grouped` on real modules: diffusers' group offload, and its removal, which diffusers does not offer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import torch as safetensors
from torch import nn

from profiler.applying.hooks.restoring import all_or_nothing
from profiler.checking.code_words import quoted
from profiler.libraries import hooks as private
from profiler.libraries.grouping import group_component, group_options
from profiler.libraries.quantised import is_wrapper
from profiler.placements.grouped import Grouped

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from profiler.applying.hooks.attachment import Target

REPLACES_TENSORS = False
SOURCES = ()
IMPORTS = """

def group(module, **options):
    from diffusers.hooks import apply_group_offloading

    if hasattr(module, "enable_group_offload"):
        module.enable_group_offload(**options)
    else:
        apply_group_offloading(module, **options)


"""


def attach(target: Target, how: Grouped) -> None:
    """Split one component that is on the CPU, as the pipeline's method would."""
    folders = () if target.folder is None else (target.folder,)
    with all_or_nothing([target.module], folders):
        group_component(target.module, options_of(how, target.device), target.folder)


def attach_to_all(pipe: DiffusionPipeline, how: Grouped, gpu_id: int | None, device: Any) -> None:
    """Split all components by the pipeline's own call."""
    pipe.enable_group_offload(**options_of(how, private.offload_device(pipe, gpu_id, device)))


def drift(name: str, module: nn.Module, how: Grouped, swap: str) -> Iterator[str]:
    """Yield a line if the component is not in the plan's groups."""
    config = private.group_config(module)
    if config is None:
        yield f"{name} is not offloaded in groups: the plan is not in effect"
    elif not _is_as_asked(how, config):
        yield f"{name} is offloaded in other groups than the plan's"


def code(name: str, how: Grouped, swap: str, *, stays: bool) -> str:
    """Return the line that splits the component."""
    return f"group({', '.join([f'pipe.{name}', *_options(how, name, 'pipe._offload_device')])})\n"


def code_for_all(how: Grouped) -> str:
    """Return the pipeline's own call."""
    options = _options(how, "", 'torch.device("cuda")')
    return f"pipe.enable_group_offload({', '.join(options)})\n"


def options_of(how: Grouped, device: torch.device) -> dict[str, Any]:
    """Return the arguments of diffusers' group offload."""
    return group_options(
        device,
        blocks=how.blocks or None,
        stream=how.stream,
        record_stream=how.record_stream,
        low_cpu_mem=how.low_cpu_mem,
    )


def _options(how: Grouped, name: str, device: str) -> Iterator[str]:
    yield f"onload_device={device}"
    yield f'offload_type="{"block" if how.blocks else "leaf"}_level"'
    if how.blocks:
        yield f"num_blocks_per_group={how.blocks}"
    for asked, option in (
        (how.stream, "use_stream"),
        (how.record_stream, "record_stream"),
        (how.low_cpu_mem, "low_cpu_mem_usage"),
    ):
        if asked:
            yield f"{option}=True"
    if how.disk:
        yield f"offload_to_disk_path=str(disk_folder / {quoted(name)})"


def _is_as_asked(split: Grouped, config: Any) -> bool:
    asked = options_of(split, config.onload_device)
    found = {
        "onload_device": config.onload_device,
        "offload_device": config.offload_device,
        "offload_type": config.offload_type.value,
        "num_blocks_per_group": config.num_blocks_per_group,
        "use_stream": config.stream is not None,
        "record_stream": config.record_stream,
        "low_cpu_mem_usage": config.low_cpu_mem_usage,
    }
    return found == asked and split.disk == (config.offload_to_disk_path is not None)


def ungroup(module: nn.Module) -> None:
    """Remove group offload from a component, which diffusers cannot do, and leave its weights in pageable memory."""
    if not private.is_group_offloaded(module):
        return
    groups = private.groups_of(module)
    for group in groups:
        _bring_back(group)
    if any(group.stream is not None for group in groups):
        _unpin(module)
    private.remove_group_hooks(
        module
    )  # last: if this is interrupted, the hooks lead to the groups again


def _bring_back(group: Any) -> None:
    """Move a group's weights to the CPU; a second call does nothing."""
    if group.offload_to_disk_path is not None:
        _read_back(group)
    elif group.stream is None or group.cpu_param_dict:
        group.offload_()
        group.cpu_param_dict.clear()  # a removed hook and its function reference each other


def _unpin(module: nn.Module) -> None:
    """Move tensors into pageable memory, and release the page-locked memory."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None and not is_wrapper(tensor) and tensor.is_pinned():
                tensor.data = tensor.data.clone()
    torch.accelerator.synchronize()  # memory that a copy still reads cannot be freed
    torch.accelerator.empty_host_cache()  # PyTorch would keep it page-locked


def _read_back(group: Any) -> None:
    """Read a group's weights from its file, and remove the file."""
    path = Path(group.safetensors_file_path)
    if path.exists():
        stored = safetensors.load_file(path, device="cpu")
        for name, tensor in group.key_to_tensor.items():
            tensor.data = stored[name]
        path.unlink()
    with suppress(OSError):  # other files are still in it
        path.parent.rmdir()
