"""Ways of evicting a component: accelerate's model-offload hook is replaced by one of our own."""

from __future__ import annotations

from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module

from profiler.applying.hooks.drop import DropOffload
from profiler.applying.hooks.pinned import PinnedOffload
from profiler.libraries import hooks as private
from profiler.placements.evictions import COPY, DROP, PINNED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffusers import DiffusionPipeline

HOOKS: Mapping[str, type[CpuOffload]] = {COPY: CpuOffload, DROP: DropOffload, PINNED: PinnedOffload}
RESTS: Mapping[str, type[DropOffload]] = {
    COPY: DropOffload,  # a copy back would gain nothing
    DROP: DropOffload,
    PINNED: PinnedOffload,
}


def swap(pipe: DiffusionPipeline, swaps: Mapping[str, str]) -> None:
    """Replace the hooks that `enable_model_cpu_offload` attached to the components named in `swaps`."""
    for name, how in swaps.items():
        put_hook(pipe, name, HOOKS[how])


def put_hook(pipe: DiffusionPipeline, name: str, make: Callable[..., CpuOffload]) -> None:
    """Replace a component's model-offload hook.

    Args:
        pipe: The pipeline, on which `enable_model_cpu_offload` was called.
        name: The component.
        make: Makes the hook from the execution device and the handle of the component that it evicts.
    """
    user = user_of(pipe, name)
    replace_hook(user, make(user.hook.execution_device, user.hook.prev_module_hook))


def user_of(pipe: DiffusionPipeline, name: str) -> UserCpuOffloadHook:
    """Return the handle of the component's model-offload hook."""
    module = getattr(pipe, name)
    return next(user for user in private.offload_hooks(pipe) if user.model is module)


def replace_hook(user: UserCpuOffloadHook, hook: CpuOffload) -> None:
    """Replace the hook of `user`. The successor's hook refers to `user`, so it evicts through the new hook."""
    private.remove_hooks(user.model)
    user.hook = hook
    hang_up(user.model, hook)


def hang_up(module: Any, hook: CpuOffload) -> None:
    """Add `hook` to a module without one; if that fails half-way, leave nothing of it."""
    try:
        add_hook_to_module(module, hook)
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold memory that is to be released
        hook.detach_hook(module)
        raise
