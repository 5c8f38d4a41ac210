"""How a component leaves the card: accelerate's model-offload hook replaced by one of our own."""

from __future__ import annotations

from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module

from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pinned import PinnedOffload
from profiler.applying.hooks.streamed import StreamedOffload
from profiler.libraries import hooks as private
from profiler.placements.scheme import COPY, DROP, PINNED, RESIDENT, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from diffusers import DiffusionPipeline

HOOKS: Mapping[str, type[CpuOffload]] = {COPY: CpuOffload, DROP: DropOffload, PINNED: PinnedOffload}
RESTS: Mapping[str, type[DropOffload]] = {
    COPY: DropOffload,  # nothing is gained by a copy
    DROP: DropOffload,
    PINNED: PinnedOffload,
}


def swap(pipe: DiffusionPipeline, swaps: Mapping[str, str]) -> None:
    """Replace the hooks that `enable_model_cpu_offload` placed on the components named in `swaps`."""
    for name, how in swaps.items():
        user = _user_of(pipe, name)
        replace_hook(user, HOOKS[how](user.hook.execution_device, user.hook.prev_module_hook))


def stream_blocks(pipe: DiffusionPipeline, scheme: Scheme, device: torch.device) -> None:
    """Let blocks of the components travel that `scheme` streams.

    Those that stay are on the CPU, without a hook; the others have the one of `enable_model_cpu_offload`.
    """
    for name in scheme.inside:
        streamed = scheme.streamed(name)
        if streamed is None:
            continue
        kind, count = RESTS[scheme.swap(name)], streamed.resident_blocks
        if scheme.placement(name) == RESIDENT:
            hook = StreamedOffload(kind(device), resident_blocks=count, stays=True)
            attach(getattr(pipe, name), hook)
        else:
            user = _user_of(pipe, name)
            rest = kind(user.hook.execution_device, user.hook.prev_module_hook)
            replace_hook(user, StreamedOffload(rest, resident_blocks=count))


def _user_of(pipe: DiffusionPipeline, name: str) -> UserCpuOffloadHook:
    module = getattr(pipe, name)
    return next(user for user in private.offload_hooks(pipe) if user.model is module)


def replace_hook(user: UserCpuOffloadHook, hook: CpuOffload) -> None:
    """Put `hook` where `user`'s is. The successor's hook knows `user`, so it evicts through the new one."""
    private.remove_hooks(user.model)
    user.hook = hook
    attach(user.model, hook)


def attach(module: Any, hook: CpuOffload) -> None:
    """Add `hook` to a module without one; where that fails half-way, leave nothing of it."""
    try:
        add_hook_to_module(module, hook)
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold memory that is to be given back
        hook.detach_hook(module)
        raise
