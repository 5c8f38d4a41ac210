"""The private names of diffusers and accelerate that applying a plan needs.

Read from diffusers 0.42.1 (`pipelines/pipeline_utils.py`, `hooks/group_offloading.py`) and accelerate 1.15.0
(`hooks.py`). The tracer's are in `profiler/libraries/offload_state.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import accelerate.hooks
import torch
from accelerate.hooks import (
    AlignDevicesHook,
    CpuOffload,
    SequentialHook,
    UserCpuOffloadHook,
    remove_hook_from_module,
)
from diffusers import DiffusionPipeline
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    ModuleGroup,
    _is_group_offload_enabled,
)
from diffusers.hooks.layerwise_casting import _LAYERWISE_CASTING_HOOK
from diffusers.utils import torch_utils
from diffusers.utils.import_utils import is_bitsandbytes_version, is_transformers_version
from diffusers.utils.torch_utils import empty_device_cache, get_device
from transformers.utils import import_utils

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diffusers.hooks.hooks import HookRegistry

_F = TypeVar("_F", bound="Callable[..., Any]")

SEQUENCE = "model_cpu_offload_seq"
EXCLUDED = "_exclude_from_cpu_offload"
ALL_HOOKS = "_all_hooks"
OFFLOAD_DEVICE = "_offload_device"
END_OF_CALL = "maybe_free_model_hooks"

REGISTRY = "_diffusers_hook"
"""The attribute in which diffusers keeps a module's hooks."""

STREAMED = "streamed_block"
"""The name of the hooks of streamed blocks in that registry."""

OFFLOAD_HOOKS = frozenset(
    {_GROUP_OFFLOADING, _LAYER_EXECUTION_TRACKER, _LAZY_PREFETCH_GROUP_OFFLOADING, STREAMED}
)
"""The names of the hooks in that registry that place weights."""

PIPELINE_STATE = (SEQUENCE, EXCLUDED, ALL_HOOKS, OFFLOAD_DEVICE, "_offload_gpu_id", END_OF_CALL)
"""The attributes that enabling model offload, or applying a plan, leaves on a pipeline."""

PIPELINE_HOOKS = (ALL_HOOKS, OFFLOAD_DEVICE, "_offload_gpu_id", END_OF_CALL)
"""Those of them that refer to the pipeline's own modules."""

MODULE_HOOKS = ("_hf_hook", REGISTRY, "hf_device_map")
"""The attributes through which a module refers to hooks, and through them to other modules."""

_HOOKED = frozenset({"_hf_hook", REGISTRY})

OLD_FORWARD = "_old_forward"
"""The attribute in which accelerate keeps the `forward` of a module that it hooked."""

MODULE_STATE = (
    "_hf_hook",
    OLD_FORWARD,
    "forward",
    *(
        "to",
        "cuda",
        "npu",
        "xpu",
        "mlu",
        "sdaa",
        "musa",
    ),  # accelerate's `_accelerate_added_attributes`
)
"""The attributes that accelerate leaves on a hooked module."""


def compiler_disable(method: _F) -> _F:
    """Keep torch.compile out of a hook's method, as accelerate does with its own, without importing it beforehand.

    Before 1.13 accelerate did not, so nor does this.
    """
    disable = getattr(accelerate.hooks, "_compiler_disable", None)
    return method if disable is None else disable(method)  # type: ignore[no-any-return]


def modules_of(pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    """Return the components that are modules, by name, in the order of `pipe.components`."""
    parts = pipe.components.items()
    return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}


def inner_pipelines(pipe: DiffusionPipeline) -> tuple[DiffusionPipeline, ...]:
    """Return the pipelines that a combined pipeline calls."""
    return tuple(part for part in vars(pipe).values() if isinstance(part, DiffusionPipeline))


def enables_by_itself(pipe: DiffusionPipeline) -> bool:
    """Tell whether the pipeline's class has its own `enable_model_cpu_offload`, which does not read the sequence."""
    own = getattr(type(pipe), "enable_model_cpu_offload", None)  # a modular pipeline has none
    return own not in (None, DiffusionPipeline.enable_model_cpu_offload)


def is_group_offloaded(module: torch.nn.Module) -> bool:
    """Tell whether diffusers' group offload is active on the module."""
    return bool(_is_group_offload_enabled(module))


def is_layerwise_cast(part: torch.nn.Module) -> bool:
    """Tell whether layerwise casting is active on this very part of a model."""
    registry = vars(part).get(REGISTRY)
    return registry is not None and registry.get_hook(_LAYERWISE_CASTING_HOOK) is not None


def groups_of(module: torch.nn.Module) -> list[ModuleGroup]:
    """Return the groups of diffusers' group offload in the module, each once."""
    found = {}
    for part in module.modules():
        registry = vars(part).get(REGISTRY)
        hook = registry.get_hook(_GROUP_OFFLOADING) if registry is not None else None
        if hook is not None:
            found[id(hook.group)] = hook.group
    return list(found.values())


def group_config(module: torch.nn.Module) -> Any:
    """Return the configuration of group offload on the module, or None if it is not active."""
    for part in module.modules():
        registry = vars(part).get(REGISTRY)
        hook = registry.get_hook(_GROUP_OFFLOADING) if registry is not None else None
        if hook is not None:
            return hook.config
    return None


def remove_group_hooks(module: torch.nn.Module) -> None:
    """Remove diffusers' group offload from the module and its submodules; the weights stay where they are."""
    for part in module.modules():
        registry = vars(part).get(REGISTRY)
        if registry is not None:
            for name in (
                _LAZY_PREFETCH_GROUP_OFFLOADING,
                _LAYER_EXECUTION_TRACKER,
                _GROUP_OFFLOADING,
            ):
                registry.remove_hook(name, recurse=False)


class Registry(NamedTuple):
    """The contents of one of diffusers' registries, in its order."""

    registry: HookRegistry
    hooks: dict[str, Any]
    order: list[str]
    references: list[tuple[Any, Any, Any]]  # with the forward and the original forward of each

    def restore(self) -> None:
        """Restore the hooks that were in the registry, and no others."""
        self.registry.hooks = dict(self.hooks)
        self.registry._hook_order = list(self.order)
        self.registry._fn_refs = [reference for reference, _, _ in self.references]
        for reference, forward, original in self.references:
            reference.forward, reference.original_forward = forward, original


def registry_of(part: torch.nn.Module) -> Registry | None:
    """Return the contents of one module's registry, or None if it has none."""
    registry = vars(part).get(REGISTRY)
    if registry is None:
        return None
    references = [(one, one.forward, one.original_forward) for one in registry._fn_refs]
    return Registry(registry, dict(registry.hooks), list(registry._hook_order), references)


def forget_child_registries(module: torch.nn.Module) -> None:
    """Make the registries of a module, some of whose submodules lost theirs, search for them again."""
    for part in module.modules():
        registry = vars(part).get(REGISTRY)
        if registry is not None and "_child_registries_cache" in vars(registry):
            registry._child_registries_cache = None


def is_device_mapped(pipe: DiffusionPipeline) -> bool:
    """Tell whether a device map spreads the pipeline over devices."""
    return bool(pipe._is_pipeline_device_mapped())


def supports_groups(module: torch.nn.Module) -> bool:
    """Tell whether the module's class allows diffusers' group offload."""
    return bool(getattr(module, "_supports_group_offloading", True))


def is_upcast(pipe: DiffusionPipeline, name: str, module: Any) -> bool:
    """Tell whether the pipeline casts this component to float32 within a call, as SDXL and others do to a float16 VAE.

    Source: `upcast_vae` of diffusers 0.42.1, pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py, and 24
    files more that define it.
    """
    if name != "vae" or not hasattr(pipe, "upcast_vae"):
        return False
    return module.dtype == torch.float16 and bool(module.config.get("force_upcast"))


def check_tensor_parallel(pipe: DiffusionPipeline) -> None:
    """Raise ValueError if a component is sharded over several GPUs."""
    if hasattr(pipe, "_maybe_raise_error_if_tensor_parallel_active"):  # since 0.41
        pipe._maybe_raise_error_if_tensor_parallel_active()


def is_left_alone(module: torch.nn.Module) -> bool:
    """Tell whether `enable_model_cpu_offload` skips the module: 8-bit weights that this bitsandbytes cannot move."""
    return bool(getattr(module, "is_loaded_in_8bit", False)) and (
        is_transformers_version("<", "4.58.0") or is_bitsandbytes_version("<", "0.48.0")
    )


def is_sequentially_offloaded(module: torch.nn.Module) -> bool:
    """Tell whether accelerate's sequential offload holds any part of the module."""
    return any(map(is_held_by_accelerate, hooked(module.modules())))


def is_held_by_accelerate(part: torch.nn.Module) -> bool:
    """Tell whether accelerate's sequential offload holds this very part."""
    return any(isinstance(hook, AlignDevicesHook) and hook.offload for hook in _hooks_on(part))


def hooked(parts: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """Return those of `parts` to which accelerate or diffusers have attached hooks."""
    return [part for part in parts if not _HOOKED.isdisjoint(vars(part))]


def offload_device(pipe: DiffusionPipeline, gpu_id: int | None, device: Any) -> torch.device:
    """Return the device that `enable_model_cpu_offload` derives from its arguments."""
    asked = torch.device(get_device() if device is None else device)
    before: int = getattr(pipe, "_offload_gpu_id", 0)
    return torch.device(asked.type, gpu_id or asked.index or before)


def root_hook(module: torch.nn.Module) -> Any:
    """Return accelerate's hook on the module itself, or None if it has none."""
    return vars(module).get("_hf_hook")


def offload_hooks(pipe: DiffusionPipeline) -> list[UserCpuOffloadHook]:
    """Return the model-offload hooks that the pipeline set up, in their order."""
    return list(getattr(pipe, ALL_HOOKS, ()))


def model_hooks_on(module: torch.nn.Module) -> list[CpuOffload]:
    """Return the model-offload hooks that the module carries, whoever set them up."""
    return [hook for hook in _hooks_on(module) if isinstance(hook, CpuOffload)]


def is_managed(module: torch.nn.Module) -> bool:
    """Tell whether a `ComponentsManager` offloads the module."""
    return any(type(hook).__name__ == "CustomOffloadHook" for hook in _hooks_on(module))


def chain_on(module: torch.nn.Module) -> tuple[torch.nn.Module | None, ...]:
    """Return, for each model-offload hook on the module, the module that it evicts."""
    hooks = model_hooks_on(module)
    return tuple(hook.prev_module_hook.model if hook.prev_module_hook else None for hook in hooks)


def remove_hooks(module: torch.nn.Module) -> None:
    """Remove accelerate's hooks from the module and its submodules."""
    remove_hook_from_module(module, recurse=True)


def free_hooked(pipe: DiffusionPipeline) -> None:
    """Reset the components' caches as diffusers does at the end of a call, and send hooked components to the CPU.

    The device's cache is emptied even if there is no hooked component: the fragments that a call leaves there would
    make the next one need more.
    """
    for component in pipe.components.values():
        if hasattr(component, "_reset_stateful_cache"):
            component._reset_stateful_cache()
    for hook in offload_hooks(pipe):
        hook.offload()
    device = getattr(pipe, OFFLOAD_DEVICE, None)
    empty_device_cache(device.type if device is not None else "cuda")


def _hooks_on(module: torch.nn.Module) -> Iterator[Any]:
    hook = vars(module).get("_hf_hook")
    if isinstance(hook, SequentialHook):
        yield from hook.hooks
    elif hook is not None:
        yield hook


def device_caches() -> Iterator[Callable[[], None]]:
    """Yield what makes libraries forget which accelerator they found.

    diffusers keeps it in `get_device`, or since 0.41 beneath it, transformers since 5 whether torch is built for ROCm.
    """
    backend = getattr(torch_utils, "TorchDeviceBackend", None)
    is_rocm = getattr(import_utils, "is_rocm_platform", None)
    for found in (getattr(backend, "_detect_device_type", None), get_device, is_rocm):
        forget: Callable[[], None] | None = getattr(found, "cache_clear", None)
        if forget is not None:
            yield forget
