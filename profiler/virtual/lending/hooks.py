"""Hooks of diffusers that a twin must have as well: layerwise casting, which is not a placement but changes memory.

Offload hooks are left out, since the twin is placed anew. Any other hook on a module affects what its forward does,
and refers to the original or depends on values, so a twin without it would be another model: it is refused.

Source: diffusers 0.42.1, `hooks/layerwise_casting.py` and `hooks/hooks.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusers.hooks.hooks import HookRegistry
from diffusers.hooks.layerwise_casting import (
    _LAYERWISE_CASTING_HOOK,
    _PEFT_AUTOCAST_DISABLE_HOOK,
    LayerwiseCastingHook,
    PeftInputAutocastDisableHook,
)
from torch import nn

from profiler.errors import InputError
from profiler.libraries.hooks import OFFLOAD_HOOKS, REGISTRY


def repeat_hooks(pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Attach to each twin the hooks that diffusers attached to its original, except offload hooks.

    Args:
        pairs: Modules and their twins; parts of others are pairs of their own.

    Raises:
        InputError: if a module carries a hook that cannot be repeated.
    """
    for original, twin in pairs:
        registry = vars(original).get(REGISTRY)
        for name, hook in registry.hooks.items() if registry is not None else ():
            if name not in OFFLOAD_HOOKS:
                copied = _copied(name, hook, type(original).__name__)
                HookRegistry.check_if_exists_or_initialize(twin).register_hook(copied, name)


def _copied(name: str, hook: Any, owner: str) -> Any:
    if name == _LAYERWISE_CASTING_HOOK:
        return LayerwiseCastingHook(hook.storage_dtype, hook.compute_dtype, hook.non_blocking)
    if name == _PEFT_AUTOCAST_DISABLE_HOOK:
        return PeftInputAutocastDisableHook()
    raise InputError(
        f"{owner} carries the diffusers hook {name!r}, which goes by values or by the pipeline that it was made for: "
        "take it off first (disable_cache() for a cache), or trace the run on a GPU"
    )
