"""The movement of weights by accelerate and diffusers, and the places at which it can be watched.

This file holds the private names of both libraries that only the tracer needs (accelerate 1.15.0, diffusers 0.42.1);
those that it shares with applying are in `profiler/libraries/hooks.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import Any

import accelerate.hooks
from accelerate.hooks import AlignDevicesHook
from diffusers import DiffusionPipeline
from diffusers.hooks._common import _GO_LC_SUPPORTED_PYTORCH_LAYERS
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from profiler.libraries import hooks as private
from profiler.libraries.compiled import is_compiled
from profiler.libraries.quantised import beside_weights, inner_tensors

ALIGN = AlignDevicesHook
GROUP = ModuleGroup
GROUPED_LAYERS = _GO_LC_SUPPORTED_PYTORCH_LAYERS
SENDER = accelerate.hooks  # the module whose `send_to_device` hooks call for inputs

# Entry points besides `forward`, if a component has them.
ENTRIES = ("encode", "decode", "_encode", "generate", "get_text_features", "get_image_features")
# Submodules that pipelines call from outside, past their component's forward.
INNER_ENTRIES = ("text_model.final_layer_norm", "vision_model.post_layernorm", "text_projection")

_FRAMES_TO_LOOK_AT = 16
# Methods of accelerate's hooks that move weights; its `new_forward` only wraps what the model itself does.
_ACCELERATE_MOVERS = ("pre_forward", "post_forward", "init_hook", "offload")
_ACCELERATE_HOOKS = (accelerate.hooks.ModelHook, accelerate.hooks.UserCpuOffloadHook)
_ASKERS = {
    "maybe_free_model_hooks": "pipeline.maybe_free_model_hooks",
    "enable_model_cpu_offload": "pipeline.enable_model_cpu_offload",
    "enable_sequential_cpu_offload": "pipeline.enable_sequential_cpu_offload",
    "enable_group_offload": "pipeline.enable_group_offload",
    "upcast_vae": "pipeline.upcast_vae",
}


def who_asked() -> str:
    """Return the origin of a move of a component, from the calling frames: the outermost one that has a name here."""
    found = "module.to"
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES_TO_LOOK_AT):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            break
        code = frame.f_code
        if code.co_name in _ASKERS:
            found = _ASKERS[code.co_name]
            if found == "pipeline.maybe_free_model_hooks":
                break
        elif found == "module.to" and _is_accelerate_mover(frame):
            found = "accelerate.CpuOffload"
        elif found == "module.to" and code.co_filename.endswith("components_manager.py"):
            found = "diffusers.ComponentsManager"
        elif (
            found == "module.to"
            and code.co_name == "to"
            and code.co_filename.endswith(("pipeline_utils.py", "modular_pipeline.py"))
        ):
            found = "pipeline.to"
    return found


def _is_accelerate_mover(frame: FrameType) -> bool:
    return frame.f_code.co_name in _ACCELERATE_MOVERS and isinstance(
        frame.f_locals.get("self"), _ACCELERATE_HOOKS
    )


def sequence_of(pipe: Any) -> tuple[str, ...]:
    """Return the pipeline's offload sequence, as names."""
    sequence = getattr(pipe, private.SEQUENCE, None)
    return tuple(sequence.split("->")) if sequence else ()


def places_itself(pipe: Any) -> bool:
    """Tell whether the pipeline's class has its own way to enable model offload, which supports no other placement."""
    return isinstance(pipe, DiffusionPipeline) and private.enables_by_itself(pipe)


def excluded_of(pipe: Any) -> tuple[str, ...]:
    """Return the names that the pipeline excludes from offloading."""
    return tuple(getattr(pipe, private.EXCLUDED, ()))


def mode_of(pipe: Any, modules: Mapping[str, nn.Module]) -> str:
    """Return the placement of a pipeline: resident, model, sequential, group-block, group-leaf, streamed or mixed."""
    modes = {"model"} if private.offload_hooks(pipe) else set()
    for module in modules.values():
        # Of a pipeline that shares the component, or of a manager of modular pipelines.
        if private.model_hooks_on(module) or private.is_managed(module):
            modes.add("model")
        modes |= set(_modes_inside(module.modules()))
    if len(modes) > 1:
        return "mixed"
    return modes.pop() if modes else "resident"


def group_files(module: nn.Module) -> Iterator[str]:
    """Yield the files to which group offload writes weights of a component."""
    for part in private.hooked(module.modules()):
        hook = _registered(part, "group_offloading")
        path = getattr(hook.group, "safetensors_file_path", "") if hook is not None else ""
        if path:
            yield path


def casting_dtypes(module: nn.Module) -> tuple[str, str] | None:
    """Return the dtypes in which layerwise casting stores and computes a component's layers, or None if it is off."""
    found = (_registered(part, "layerwise_casting") for part in private.hooked(module.modules()))
    hook = next((hook for hook in found if hook is not None), None)
    if hook is None:
        return None
    storage, compute = (
        str(dtype).removeprefix("torch.") for dtype in (hook.storage_dtype, hook.compute_dtype)
    )
    return storage, compute


def _registered(part: nn.Module, name: str) -> Any:
    registry = vars(part).get(private.REGISTRY)
    return None if registry is None else registry.get_hook(name)


def _modes_inside(parts: Iterable[nn.Module]) -> Iterator[str]:
    hooked = private.hooked(parts)
    if any(map(private.is_held_by_accelerate, hooked)):
        yield "sequential"
    for part in hooked:
        if _registered(part, private.STREAMED) is not None:
            yield "streamed"
            return
        hook = _registered(part, "group_offloading")
        if hook is not None:
            yield "group-block" if hook.config.offload_type == "block_level" else "group-leaf"
            return


def acts_inside(module: nn.Module) -> bool:
    """Tell whether anything but the module's own code acts on its submodules: an offload hook, or a compiler."""
    parts = list(module.modules())  # once: walking the modules takes longer than the checks
    return any(map(is_compiled, parts)) or next(_modes_inside(parts), None) is not None


def hook_tensors(hook: Any, module: nn.Module) -> list[Any]:
    """Return the tensors that an `AlignDevicesHook` places for `module`."""
    recurse = hook.place_submodules
    placed = (*module.parameters(recurse=recurse), *module.buffers(recurse=recurse))
    return [plain for tensor in placed for plain in inner_tensors(tensor)]


def tied_on_gpu(hook: Any) -> set[int]:
    """Return the addresses of tied weights that are already on the device, on behalf of another module."""
    tied = getattr(hook, "tied_params_map", None) or {}
    return {tensor.data_ptr() for placed in tied.values() for tensor in placed.values()}


def group_tensors(group: Any) -> Callable[[], list[Any]]:
    """Return a function that reads the tensors of a group offloading group.

    It remembers slots, not tensors: `Module.to` replaces buffers, while a group's own list keeps the old ones, which
    then move as well. A tensor in two slots is read twice.
    """
    places: list[Callable[[], Any]] = []
    for module in group.modules:
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                places += [
                    partial(held.__getitem__, name)
                    for name, tensor in held.items()
                    if tensor is not None
                ]
    places += [partial(_itself, tensor) for tensor in (*group.parameters, *group.buffers)]
    # With a stream, diffusers moves only parameters and buffers.
    moved = group.modules if group.stream is None else ()
    parts = [part for module in moved for part in module.modules()]
    return lambda: [
        *(plain for read in places for plain in inner_tensors(read())),
        *(tensor for part in parts for _, tensor in beside_weights(part)),
    ]


def _itself(tensor: Any) -> Any:
    return tensor


def group_drops(group: Any) -> bool:
    """Tell whether offloading the group only drops the device copy: a host or disk copy was kept."""
    return group.stream is not None or group.offload_to_disk_path is not None


def group_copies_anyway(group: Any) -> bool:
    """Tell whether onloading sends tensors that are already on the device: with a stream, from their host copies.

    The groups of `profiler.applying` send each tensor once.
    """
    return group.stream is not None and not hasattr(group, "keeps_host_copy")


def group_module(group: Any) -> nn.Module | None:
    """Return a module by which the group can be recognised."""
    leader = group.onload_leader or group.offload_leader
    return group.modules[0] if group.modules else leader
