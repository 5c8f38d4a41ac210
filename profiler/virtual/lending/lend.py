"""The twin of a loaded pipeline: the same modules with virtual tensors, without hooks. The original is only read.

Each tensor becomes one virtual tensor, so ties stay ties. Hooks that move weights are left behind, since a copied
hook's `forward` closes over the original function; the offload mode is applied to the twin by diffusers' own calls.
Whatever else is left behind is assumed, or refused (`left_behind.py`). Compiled modules are lent in uncompiled form.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import nn
from torch.utils._pytree import tree_leaves

from profiler.libraries import compiled
from profiler.libraries.hooks import PIPELINE_HOOKS
from profiler.libraries.quantised import beside_weights, is_wrapper, memory_of, weights_in
from profiler.virtual.lending import left_behind
from profiler.virtual.lending.functions import replace_methods
from profiler.virtual.lending.hooks import repeat_hooks
from profiler.virtual.tensor import CPU, CUDA, META, VirtualTensor
from profiler.virtual.torch_api.subclasses import view_as

if TYPE_CHECKING:
    from profiler.virtual.device import Device
    from profiler.virtual.storage import Storage

_T = TypeVar("_T")
_PLAIN = (torch.Tensor, VirtualTensor)


def lend(gpu: Device, original: _T) -> _T:
    """Return a twin of a pipeline or module on `gpu`, entirely in virtual host memory."""
    (twin,) = lend_together(gpu, [original])
    return twin  # type: ignore[no-any-return]


def lend_together(gpu: Device, originals: Sequence[Any]) -> list[Any]:
    """Return a twin of each pipeline or module; the twins share whatever the originals share."""
    with gpu.suspended():
        found = list(_modules_in(originals))
        modules = list(map(compiled.uncompiled, found))
        memo = _memo_of_modules(gpu, modules)
        twins = [_twin(gpu, original, memo) for original in originals]
        left_behind.assume(gpu.values, found)
        return twins


def _modules_in(originals: Sequence[Any]) -> Iterator[nn.Module]:
    """Yield the modules of pipelines, including those of the pipelines inside them, each once."""
    seen: set[int] = set()
    outer = set(map(id, originals))
    waiting = list(originals)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
        elif id(value) in outer or _is_pipeline(value):
            waiting += [part for name, part in vars(value).items() if name not in PIPELINE_HOOKS]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _twin(gpu: Device, value: Any, memo: dict[int, Any]) -> Any:
    value = compiled.uncompiled(value)
    if id(value) in memo:
        return memo[id(value)]
    twin = memo[id(value)] = object.__new__(type(value))
    for name, part in vars(value).items():
        if name not in PIPELINE_HOOKS:
            pipelike = isinstance(part, nn.Module) or _is_pipeline(part)
            make = _twin if pipelike else _twin_of_part
            vars(twin)[name] = make(gpu, part, memo)
    replace_methods(twin, value, memo, frozenset(PIPELINE_HOOKS))
    return twin


def _is_pipeline(value: Any) -> bool:
    return isinstance(value, ConfigMixin) and hasattr(value, "components")


def _twin_of_part(gpu: Device, value: Any, memo: dict[int, Any]) -> Any:
    """Return the twin of a part: what changes in a call (schedulers, guiders, settings) is copied, the rest shared."""
    if not (isinstance(value, ConfigMixin | dict | list) or hasattr(value, "set_timesteps")):
        return value
    for one in tree_leaves(getattr(value, "__dict__", value)):
        if isinstance(one, VirtualTensor) and one.gpu is not gpu:  # its GPU may be gone
            memo.setdefault(id(one), _twin_of_tensor(gpu, one, {}))
    return copy.deepcopy(value, memo)


def _memo_of_modules(gpu: Device, originals: list[nn.Module]) -> dict[int, Any]:
    """Return the twins of modules, and of their contents, by the originals' ids."""
    memo: dict[int, Any] = {}
    memories: dict[int, Storage] = {}
    for module in _all_of(originals):
        left_behind.leave(module, memo)
        kept = (one for one in tree_leaves(vars(module)) if isinstance(one, torch.Tensor))
        for tensor in (
            *(one for _, one in (*weights_in(module), *beside_weights(module))),
            *(one for one in kept if type(one) in _PLAIN),
        ):
            if id(tensor) not in memo:
                memo[id(tensor)] = twin = _twin_of_tensor(gpu, tensor, memories)
                memories[memory_of(tensor)] = twin.storage_record
    _keep_library_parameters(originals, memo)
    for module in _all_of(originals):
        if compiled.is_wrapper(module):
            memo[id(module)] = copy.deepcopy(compiled.uncompiled(module), memo)
    copy.deepcopy(originals, memo)
    for module in _all_of(originals):
        left_behind.take_along(module, memo)
    repeat_hooks((part, memo[id(part)]) for part in _all_of(originals))
    return memo


def _keep_library_parameters(originals: list[nn.Module], memo: dict[int, Any]) -> None:
    """Give the twins of quantisation libraries' parameters the contents of those: other tensors, or attributes."""
    parameters = [
        parameter
        for module in _all_of(originals)
        for parameter in module.parameters(recurse=False)
        if type(parameter) not in {nn.Parameter, VirtualTensor}
    ]
    for parameter in filter(is_wrapper, parameters):
        memo[id(parameter)] = _twin_of_wrapper(parameter, memo)
    for parameter in parameters:
        if not is_wrapper(parameter):
            twin = vars(memo[id(parameter)])
            own = {name: value for name, value in vars(parameter).items() if name not in twin}
            twin.update(copy.deepcopy(own, memo))


def _all_of(modules: list[nn.Module]) -> Iterator[nn.Module]:
    """Yield the submodules of modules, each once."""
    seen: set[nn.Module] = set()
    for module in modules:
        yield from (part for _, part in module.named_modules(seen))


def _known(gpu: Device, tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the value of a buffer, or None if it is not on the host or not known."""
    if isinstance(tensor, VirtualTensor):
        return gpu.values.known(tensor)
    return tensor if tensor.device.type == "cpu" else None


def _twin_of_tensor(
    gpu: Device, tensor: torch.Tensor, memories: dict[int, Storage]
) -> VirtualTensor:
    """Return the twin of a plain tensor or parameter; a library's parameter without its attributes."""
    if isinstance(tensor, nn.Parameter):
        # Only the own part of a parameter counts if its memory is larger (packed, or mapped from a file).
        virtual = isinstance(tensor, VirtualTensor)  # of another virtual GPU, which is gone
        own = tensor if virtual else torch.empty_like(tensor, device=META)
        twin: Any = gpu.like(own, CPU)
        if type(tensor) not in {nn.Parameter, VirtualTensor}:
            twin = view_as(type(tensor), twin)
        twin._is_param = True
        twin.requires_grad_(tensor.requires_grad)
    else:
        twin = gpu.like(tensor, CPU, memories.get(memory_of(tensor)))
        known = _known(gpu, tensor)
        if known is not None:
            gpu.values.keep(twin, known.detach().clone())
    assert twin.device != CUDA
    return twin  # type: ignore[no-any-return]


def _twin_of_wrapper(wrapper: Any, memo: dict[int, Any]) -> Any:
    """Return the twin of a wrapper tensor, around the twins of its inner tensors."""
    twin = _rewrapped(wrapper, memo)
    twin._is_param = True
    return twin


def _rewrapped(tensor: Any, memo: dict[int, Any]) -> Any:
    if not is_wrapper(tensor):
        return memo[id(tensor)]
    names, facts = tensor.__tensor_flatten__()
    inner = {name: _rewrapped(getattr(tensor, name), memo) for name in names}
    return tensor.__tensor_unflatten__(inner, facts, tensor.size(), tensor.stride())
