"""A twin of a loaded pipeline: the same modules with virtual tensors, without hooks. The original is only read.

Each tensor becomes one virtual tensor, so ties stay ties. Hooks are left behind, since a copied hook's `forward` closes
over the original function; the offload mode is applied to the twin by diffusers' own calls.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from profiler.virtual.tensor import CPU, CUDA

if TYPE_CHECKING:
    from profiler.virtual.gpu import VirtualGPU

_T = TypeVar("_T")

# What accelerate and diffusers leave on a hooked module or pipeline: private names, accelerate 1.15.0, diffusers 0.42.1.
_MODULE_HOOKS = ("_hf_hook", "_old_forward", "_diffusers_hook", "hf_device_map")
_PIPELINE_HOOKS = ("_all_hooks", "_offload_device", "_offload_gpu_id", "maybe_free_model_hooks")
_SHADOWED_METHODS = ("forward", "to", "cuda", "cpu")


def lend(gpu: VirtualGPU, original: _T) -> _T:
    """Return a twin of a pipeline or module on `gpu`, all of it in virtual host memory."""
    with gpu.suspended():
        if isinstance(original, nn.Module):
            return _twin_of_modules(gpu, [original])[0]  # type: ignore[return-value]
        attributes = vars(original)
        modules = {name: value for name, value in attributes.items() if isinstance(value, nn.Module)}
        twins = dict(zip(modules, _twin_of_modules(gpu, list(modules.values())), strict=True))
        twin = object.__new__(type(original))
        for name, value in attributes.items():
            if name not in _PIPELINE_HOOKS:
                vars(twin)[name] = twins[name] if name in twins else _twin_of_part(name, value)
    return twin


def _twin_of_part(name: str, value: Any) -> Any:
    """Schedulers and settings change in a call, so they are copied; tokenizers and processors are shared."""
    if hasattr(value, "set_timesteps") or isinstance(value, dict | list):
        return copy.deepcopy(value)
    return value


def _twin_of_modules(gpu: VirtualGPU, originals: list[nn.Module]) -> list[nn.Module]:
    memo: dict[int, Any] = {}
    for original in originals:
        for module in original.modules():
            for name in _MODULE_HOOKS:
                if name in vars(module):
                    memo[id(vars(module)[name])] = None
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if id(tensor) not in memo:
                    memo[id(tensor)] = _twin_of_tensor(gpu, tensor)
    twins = copy.deepcopy(originals, memo)
    for twin in twins:
        for module in twin.modules():
            _strip(module)
    return twins


def _twin_of_tensor(gpu: VirtualGPU, tensor: torch.Tensor) -> torch.Tensor:
    twin: Any = gpu.like(tensor, CPU)
    if isinstance(tensor, nn.Parameter):
        twin._is_param = True
        twin.requires_grad_(tensor.requires_grad)
    elif tensor.device.type == "cpu":
        gpu.values.keep(twin, tensor.detach().clone())
    assert twin.device != CUDA
    return twin  # type: ignore[no-any-return]


def _strip(module: nn.Module) -> None:
    attributes = vars(module)
    for name in (*_MODULE_HOOKS, *_SHADOWED_METHODS):
        attributes.pop(name, None)
    module._forward_hooks.clear()
    module._forward_pre_hooks.clear()
