"""What a test may not leave behind in torch, accelerate and diffusers: a snapshot, and what changed since.

A snapshot is taken only of what is imported already: a test of plain records stays free of torch. What a test imports
for the first time has no before, so it is compared from the next test on.
"""

from __future__ import annotations

import signal
import sys
from types import ModuleType
from typing import Any

Snapshot = dict[str, dict[str, Any]]


def changes(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """Return the names that differ, by owner."""
    return {
        name: _difference(before[name], after[name])
        for name in before
        if before[name] != after[name]
    }


def snapshot() -> Snapshot:
    """Return what must not change, by owner: identities of attributes, torch's own state, and who gets Ctrl-C."""
    taken = {name: _identities(owner) for name, owner in _owners().items()}
    taken["signal"] = {"SIGINT": signal.getsignal(signal.SIGINT)}
    if "profiler.patching" in sys.modules:
        taken["profiler"] = _what_stands()
    if "torch" in sys.modules:
        taken["torch state"] = _torch_state()
    return taken


def _identities(owner: Any) -> dict[str, int]:
    return {
        key: id(value)
        for key, value in vars(owner).items()
        if key not in _MOVES_BY_ITSELF and not isinstance(value, ModuleType)
    }


def _owners() -> dict[str, Any]:
    found = {}
    for module_name, class_names in _WATCHED.items():
        # A module that is half imported, or lazily, has no such class yet.
        module = sys.modules.get(module_name)
        if module is None:
            continue
        found[module_name] = module
        for class_name in class_names:
            owner = vars(module).get(class_name)
            if owner is not None:
                found[f"{module_name}.{class_name}"] = owner
    return found


def _what_stands() -> dict[str, Any]:
    from profiler import patching

    return {"replacements": list(patching._standing), "turns": list(patching._turns)}


def _takes_numbers(tensor: Any) -> bool:
    """Tell whether a legacy tensor is made of numbers; a class that once had a `__getitem__` refuses them for good."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():  # one that was left behind is named by itself
        try:
            tensor([tensor([0.5])[0]])
        except TypeError:
            return False
    return True


def _torch_state() -> dict[str, Any]:
    import torch
    from torch.utils import _python_dispatch

    return {
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": len(_python_dispatch._get_current_dispatch_mode_stack()),
        "in a dispatch mode": (
            _python_dispatch._is_in_torch_dispatch_mode,
            _python_dispatch._is_in_non_infra_torch_dispatch_mode,
            _python_dispatch._is_in_any_mode_without_ignore_compile_internals,
        ),
        "inference mode": torch.is_inference_mode_enabled(),
        "a number is no sequence": _takes_numbers(torch.Tensor),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "grad enabled": torch.is_grad_enabled(),
        "queued calls": [id(call) for call, *_ in torch.cuda._queued_calls],
        "lazy seed": len(torch.cuda._lazy_seed_tracker.get_calls()),
        "cuda initialized": torch.cuda._initialized,
        "threads": torch.get_num_threads(),
    }


def _difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


_WATCHED = {
    "os": (),
    "torch": ("Tensor",),
    "torch._C": (),
    "torch._C._nn": (),
    "torch.cuda": (),
    "torch.cuda.memory": (),
    "torch.cuda.random": (),
    "torch.cuda.streams": ("Stream", "Event"),
    "torch.accelerator": (),
    "torch.accelerator.memory": (),
    "torch.nn.modules.module": ("Module",),
    "torch.nn.functional": (),
    "torch.version": (),
    "torch._tensor": ("Tensor",),
    "accelerate.hooks": (
        "AlignDevicesHook",
        "CpuOffload",
        "SequentialHook",
        "UserCpuOffloadHook",
    ),
    "accelerate.utils.modeling": (),
    "accelerate.utils.memory": (),
    "bitsandbytes.functional": (),
    "diffusers.hooks.hooks": ("HookRegistry", "ModelHook", "StateManager"),
    "diffusers.hooks.group_offloading": ("GroupOffloadingHook", "ModuleGroup"),
    "diffusers.hooks.layerwise_casting": ("LayerwiseCastingHook",),
    "diffusers.pipelines.pipeline_utils": ("DiffusionPipeline",),
    "diffusers.models.modeling_utils": ("ModelMixin",),
    "diffusers.utils.torch_utils": (),
    "safetensors.torch": (),
}
_MOVES_BY_ITSELF = {
    "__warningregistry__",
    "_abc_impl",
    "smart_apply",  # transformers adds it to `Module` when it first loads weights
    "manual_seed",  # torch._dynamo wraps it when it is first imported
}
