"""How a component leaves the card: accelerate's model-offload hook replaced by one of our own."""

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
    COPY: DropOffload,  # nothing is gained by a copy
    DROP: DropOffload,
    PINNED: PinnedOffload,
}


def swap(pipe: DiffusionPipeline, swaps: Mapping[str, str]) -> None:
    """Replace the hooks that `enable_model_cpu_offload` placed on the components named in `swaps`."""
    for name, how in swaps.items():
        put_hook(pipe, name, HOOKS[how])


def put_hook(pipe: DiffusionPipeline, name: str, make: Callable[..., CpuOffload]) -> None:
    """Replace a component's hook of model offload.

    Args:
        pipe: The pipeline, on which `enable_model_cpu_offload` was called.
        name: The component.
        make: Makes the hook from the device to run on and the handle of the component that it evicts.
    """
    user = user_of(pipe, name)
    replace_hook(user, make(user.hook.execution_device, user.hook.prev_module_hook))


def user_of(pipe: DiffusionPipeline, name: str) -> UserCpuOffloadHook:
    """Return the handle of the component's hook of model offload."""
    module = getattr(pipe, name)
    return next(user for user in private.offload_hooks(pipe) if user.model is module)


def replace_hook(user: UserCpuOffloadHook, hook: CpuOffload) -> None:
    """Put `hook` where `user`'s is. The successor's hook knows `user`, so it evicts through the new one."""
    private.remove_hooks(user.model)
    user.hook = hook
    hang_up(user.model, hook)


def hang_up(module: Any, hook: CpuOffload) -> None:
    """Add `hook` to a module without one; where that fails half-way, leave nothing of it."""
    try:
        add_hook_to_module(module, hook)
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold memory that is to be given back
        hook.detach_hook(module)
        raise


def is_ours(hook: Any) -> bool:
    """Tell whether a module's hook is one of this package's."""
    return type(hook).__module__.startswith(__package__ or "")
