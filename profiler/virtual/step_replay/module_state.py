"""The state that a module's forward may depend on besides its arguments: every part of it, and torch's switches.

The state is compared, not counted: every attribute of every submodule, the contents of its lists, dicts and plain
objects, and for each tensor the metadata, which include the device, and whether the value is known. No tensor or
module is kept alive by it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from operator import call, is_, itemgetter
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import nn
from torch.nn.modules import module as torch_module

from profiler.libraries.hooks import MODULE_STATE
from profiler.virtual.precision import precision_settings
from profiler.virtual.tensor import VirtualTensor

# Code of these packages may be skipped; the side effects of other code are not known.
_KNOWN_PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate")

_TENSORS = ("_parameters", "_buffers")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
# `nn.Module`'s own that do not matter to a forward, besides those that are compared one by one.
_OF_NO_ACCOUNT = {
    *_TENSORS,
    *_HOOKS,
    "_modules",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
}
# Attributes by which hooks, or a caller, wrap the forward itself; only the outermost module may have them.
_AROUND = {"_apply", "_diffusers_hook", *MODULE_STATE}
_PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    type,
    torch.dtype,
    torch.device,
    torch.Size,
    type(None),
    FrozenDict,
)
_FUNCTIONS = (type(len), type(lambda: None), type(torch.add), type(str.join))


class UnknownStateError(Exception):
    """A part whose state cannot be followed: hooks, or code of unknown origin."""


class ModuleState:
    """The state of a module at one moment.

    Args:
        module: the outermost module.

    Raises:
        UnknownStateError: if a part of it cannot be followed.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = [*module.modules()]
        for part in parts:
            _check(part, outermost=part is module)
        self.parts = frozenset(map(id, parts))
        self._root = weakref.ref(module)
        # Attributes are held, so a part that is removed from the tree must be released at once.
        let_go = partial(_let_go, weakref.ref(self))
        self._watched = [weakref.ref(part, let_go) for part in parts]
        self._owns = [vars(part) for part in parts[1:]]
        self._empty: list[dict[str, Any]] = []
        self._readers: list[Callable[[Any], tuple[Any, ...]]] = []
        self._complicated: list[tuple[int, str]] = []
        for index, part in enumerate(parts):
            self._read(index, vars(part))
        inner = [vars(part)["_modules"] for part in parts]
        tensors = [vars(part)[name] for part in parts for name in _TENSORS]
        if not all(
            isinstance(one, VirtualTensor | None) for held in tensors for one in held.values()
        ):
            raise UnknownStateError("a tensor that holds others")
        self._children = [*filter(None, inner)]
        self._tensors = [*filter(None, tensors)]
        self._empty += [held for held in (*inner, *tensors) if not held]
        self._empty += [vars(part)[name] for name in _HOOKS for part in parts[1:]]
        self._values = [*self._values_now()]
        self._others = self._others_now()

    def _read(self, index: int, own: dict[str, Any]) -> None:
        """Sort a part's attributes by the way in which they are compared."""
        names = [name for name in own if _counts(name, outermost=not index)]
        simple = [name for name in names if _is_plain(own[name]) or _is_bare(own[name])]
        self._empty += [vars(own[name]) for name in simple if _is_bare(own[name])]
        # The first name comes twice, since the getter of a single name returns no tuple.
        self._readers.append(itemgetter(simple[0], *simple))
        self._complicated += [(index, name) for name in names if name not in simple]

    def holds(self) -> bool:
        """Tell whether the module is still the same, and free of hooks inside."""
        if not self._readers:
            return False
        try:
            return (
                # By identity: a comparison with a value that has become a tensor would compute.
                all(map(is_, self._values_now(), self._values))
                and not any(self._empty)
                and self._others_now() == self._others
            )
        except (AttributeError, KeyError, UnknownStateError):
            return False  # it has become something else

    # Each of these reads thousands of attributes, many times a second, and therefore has no loop in Python.

    def _owns_now(self) -> list[dict[str, Any]]:
        return [self._root().__dict__, *self._owns]

    def _values_now(self) -> Iterator[Any]:
        return chain.from_iterable(map(call, self._readers, self._owns_now()))

    def _others_now(self) -> list[Any]:
        owns = self._owns_now()
        counts = [*map(len, owns)]
        counts[0] -= sum(name in owns[0] for name in _AROUND)
        children = chain.from_iterable(map(dict.values, self._children))
        tensors = [*chain.from_iterable(map(dict.values, self._tensors))]
        return [
            counts,
            [*map(id, children)],
            [tensor if tensor is None else tensor.tag for tensor in tensors],
            [tensor is None or tensor.storage_record.real is None for tensor in tensors],
            [self._token(owns[index][name], ()) for index, name in self._complicated],
        ]

    def forget(self) -> None:
        """Release everything."""
        for held in (self._owns, self._readers, self._children, self._tensors, self._values):
            held.clear()

    def _token(self, value: Any, seen: tuple[int, ...]) -> Any:
        """Return something comparable that changes whenever `value` does."""
        if _is_plain(value):
            return value
        if isinstance(value, VirtualTensor):
            return value.tag, value.storage_record.real is None
        if id(value) in seen:
            return "again", seen.index(id(value))
        seen = (*seen, id(value))
        if isinstance(value, dict):
            pairs = [(self._token(k, seen), self._token(v, seen)) for k, v in value.items()]
            return type(value), tuple(pairs)
        if isinstance(value, list | tuple | deque | set | frozenset):
            kind = frozenset if isinstance(value, set | frozenset) else tuple
            return type(value), kind([self._token(item, seen) for item in value])
        return self._token_of_object(value, seen)

    def _token_of_object(self, value: Any, seen: tuple[int, ...]) -> Any:
        if id(value) in self.parts:
            return id(value)
        other = isinstance(value, nn.Module | torch.Tensor)
        if other or type(value).__module__.partition(".")[0] not in _KNOWN_PACKAGES:
            raise UnknownStateError(f"a {type(value).__name__}")
        return type(value), self._token(getattr(value, "__dict__", None), seen)


def _let_go(state: weakref.ref[ModuleState], _: Any) -> None:
    left = state()
    if left is not None:
        left.forget()


def switches() -> tuple[Any, ...] | None:
    """Return torch's and diffusers' settings of this thread that change what runs; None if they cannot be read."""
    unknown = (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack() > 1
        or torch._C._autograd._profiler_enabled()
        or any(getattr(torch_module, name) for name in _GLOBAL_HOOKS)
        # The contents of its cache of weights belong to no module.
        or torch.is_autocast_enabled("cuda")
        or torch.is_autocast_enabled("cpu")
    )
    if unknown:
        return None
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        tuple(torch._C._get_sdp_priority_order()),
        precision_settings(),
        _AttentionBackendRegistry._active_backend,
    )


def _check(part: nn.Module, *, outermost: bool) -> None:
    """Raise UnknownStateError if a part has a hook inside the module, or code of unknown origin."""
    if not _is_known(type(part)):
        raise UnknownStateError(f"a {type(part).__name__}")
    if outermost:
        return
    hooks = any(vars(part)[name] for name in _HOOKS)
    if hooks or not _AROUND.isdisjoint(vars(part)):
        raise UnknownStateError(f"a hook on a {type(part).__name__}")


def _counts(name: str, *, outermost: bool) -> bool:
    return name not in _OF_NO_ACCOUNT and not (outermost and name in _AROUND)


def _is_plain(value: Any) -> bool:
    """Tell whether a value cannot change, holds nothing, and can be compared directly."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (isinstance(value, _FUNCTIONS) and _is_known(value))


def _is_bare(value: Any) -> bool:
    """Tell whether a value is an object without attributes, as most attention processors are."""
    own_package = type(value).__module__.partition(".")[0]
    return own_package in _KNOWN_PACKAGES and getattr(value, "__dict__", None) == {}


def _is_known(thing: Any) -> bool:
    module = getattr(thing, "__module__", None) or ""
    return module.partition(".")[0] in (*_KNOWN_PACKAGES, "builtins", "collections")
