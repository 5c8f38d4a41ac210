"""`Sequential` on real modules: accelerate's sequential offload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from accelerate import cpu_offload
from torch import nn

from profiler.applying.hooks.restoring import all_or_nothing
from profiler.libraries import hooks as private

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from profiler.applying.hooks.attachment import Target
    from profiler.placements.sequential import Sequential

REPLACES_TENSORS = True
SOURCES = ()
IMPORTS = "from accelerate import cpu_offload\n\n"


def attach(target: Target, how: Sequential) -> None:
    """Do what `enable_sequential_cpu_offload` of diffusers 0.42.1 does to each component."""
    module = target.module
    with all_or_nothing([module]):
        cpu_offload(module, target.device, offload_buffers=len(module._parameters) > 0)


def attach_to_all(
    pipe: DiffusionPipeline,
    how: Sequential,
    gpu_id: int | None,
    device: Any,
) -> None:
    """Split all components by the pipeline's own call."""
    pipe.enable_sequential_cpu_offload(gpu_id=gpu_id, device=device)


def drift(name: str, module: nn.Module, how: Sequential, swap: str) -> Iterator[str]:
    """Yield a line if the component is not offloaded sequentially."""
    if not private.is_sequentially_offloaded(module):
        yield f"{name} is not offloaded sequentially: the plan is not in effect"


def code(name: str, how: Sequential, swap: str, *, stays: bool) -> str:
    """Return the line that splits the component."""
    part = f"pipe.{name}"
    return (
        f"cpu_offload({part}, pipe._offload_device, offload_buffers=len({part}._parameters) > 0)\n"
    )


def code_for_all(how: Sequential) -> str:
    """Return the pipeline's own call."""
    return "pipe._exclude_from_cpu_offload = []\npipe.enable_sequential_cpu_offload()\n"
