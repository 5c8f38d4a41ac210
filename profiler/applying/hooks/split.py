"""Components that are split: by diffusers' group offload, or by accelerate's sequential offload; and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import cpu_offload
from safetensors import torch as safetensors
from torch import nn

from profiler.libraries import hooks as private
from profiler.libraries.placing import group_component, group_options
from profiler.libraries.quantised import is_wrapper
from profiler.placements.scheme import Grouped, Sequential, Split


class Held(NamedTuple):
    """One tensor of a module, and where it was."""

    owner: dict[str, Any]  # a module's parameters or buffers
    name: str
    tensor: torch.Tensor
    data: torch.Tensor


def hold(modules: Iterable[nn.Module]) -> list[Held]:
    """Return all tensors of some modules. Whoever keeps the list keeps their memory."""
    return [
        Held(owner, name, tensor, tensor.data)
        for module in modules
        for part in module.modules()
        for owner in (part._parameters, part._buffers)
        for name, tensor in owner.items()
        if tensor is not None
    ]


@contextmanager
def all_or_nothing(modules: list[nn.Module], folders: Iterable[Path] = ()) -> Iterator[None]:
    """Where splitting fails half-way, give modules the very tensors that they had, without hooks and files."""
    held = hold(modules)
    try:
        yield
    except BaseException:
        for module in modules:
            for group in private.groups_of(module):
                group.cpu_param_dict.clear()  # page-locked, and in a circle that only the collector frees
            private.remove_group_hooks(module)
            private.remove_hooks(module)
        for owner, name, tensor, data in held:
            tensor.data = data
            owner[name] = tensor
        for folder in folders:
            _clear(folder)
        raise


def split(module: nn.Module, how: Split, device: torch.device, folder: Path | None) -> None:
    """Split one component that is on the CPU as the pipeline's methods would.

    Args:
        module: The component.
        how: One of the two ways.
        device: Where it computes.
        folder: Where groups on disk go.
    """
    with all_or_nothing([module], () if folder is None else (folder,)):
        if isinstance(how, Sequential):
            # What `enable_sequential_cpu_offload` of diffusers 0.42.1 does to each component.
            cpu_offload(module, device, offload_buffers=len(module._parameters) > 0)
        else:
            group_component(module, options_of(how, device), folder)


def options_of(how: Grouped, device: torch.device) -> dict[str, Any]:
    """Return the arguments of diffusers' group offload."""
    return group_options(
        device,
        blocks=how.blocks or None,
        stream=how.stream,
        record_stream=how.record_stream,
        low_cpu_mem=how.low_cpu_mem,
    )


def ungroup(module: nn.Module) -> None:
    """Take group offload off a component, which diffusers offers no way to, with its weights in ordinary memory."""
    if not private.is_group_offloaded(module):
        return
    groups = private.groups_of(module)
    for group in groups:
        _bring_back(group)
    if any(group.stream is not None for group in groups):
        _unpin(module)
    private.remove_group_hooks(module)  # last: what was interrupted before is found again by them


def _bring_back(group: Any) -> None:
    """Bring a group's weights to the CPU; nothing is left to do the second time."""
    if group.offload_to_disk_path is not None:
        _read_back(group)
    elif group.stream is None or group.cpu_param_dict:
        group.offload_()
        group.cpu_param_dict.clear()  # a removed hook and its function hold each other


def _unpin(module: nn.Module) -> None:
    """Bring tensors into ordinary memory, and give back what was page-locked."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None and not is_wrapper(tensor) and tensor.is_pinned():
                tensor.data = tensor.data.clone()
    torch.accelerator.synchronize()  # what a copy still reads cannot be freed
    torch.accelerator.empty_host_cache()  # PyTorch would keep it page-locked


def _read_back(group: Any) -> None:
    """Read a group's weights from its file, and remove that."""
    path = Path(group.safetensors_file_path)
    if path.exists():
        stored = safetensors.load_file(path, device="cpu")
        for name, tensor in group.key_to_tensor.items():
            tensor.data = stored[name]
        path.unlink()
    with suppress(OSError):  # others are in it still
        path.parent.rmdir()


def _clear(folder: Path) -> None:
    """Remove the files of a folder that was empty before."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()
