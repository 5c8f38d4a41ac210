"""How a component leaves the card: accelerate's model-offload hook replaced by one of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module

from profiler import diffusers_private as private
from profiler.applying.drop import DropOffload
from profiler.applying.pinned import PinnedOffload
from profiler.planning.placements import COPY, DROP, PINNED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffusers import DiffusionPipeline

HOOKS: Mapping[str, type[CpuOffload]] = {COPY: CpuOffload, DROP: DropOffload, PINNED: PinnedOffload}


def swap(pipe: DiffusionPipeline, swaps: Mapping[str, str]) -> None:
    """Replace the hooks that `enable_model_cpu_offload` placed on the components named in `swaps`."""
    users = {id(user.model): user for user in private.offload_hooks(pipe)}
    for name, how in swaps.items():
        user = users[id(getattr(pipe, name))]
        replace_hook(user, HOOKS[how](user.hook.execution_device, user.hook.prev_module_hook))


def replace_hook(user: UserCpuOffloadHook, hook: CpuOffload) -> None:
    """Put `hook` where `user`'s is. The successor's hook knows `user`, so it evicts through the new one."""
    private.remove_hooks(user.model)
    user.hook = hook
    attach(user.model, hook)


def attach(module: object, hook: CpuOffload) -> None:
    """Add `hook` to a module without one; where that fails half-way, leave nothing of it."""
    try:
        add_hook_to_module(module, hook)
    except BaseException:
        hook.detach_hook(module)
        raise
