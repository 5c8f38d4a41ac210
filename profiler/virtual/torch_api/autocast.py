"""`torch.autocast` for virtual tensors: the casts that C++ makes for tensors on CUDA and on the CPU, and their cache.

C++ decides by the device that it sees, so torch's kernels do not cast virtual tensors. Virtual tensors
therefore carry one more dispatch key, that of a kind of GPU that never occurs together with a virtual one. Its kernels
are made here and act where torch's do: before autograd, around whole composite operators. They are registered when
autocast is first switched on inside a virtual GPU, and removed when that is left.

Cast weights stay in memory until the outermost region is left, whatever happens to the weights: these are leaves in
single precision that require gradients, as the parameters of a loaded model do unless that is switched off.

Source: PyTorch's aten/src/ATen/autocast_mode.h and autocast_mode.cpp, read in copies from before and after 2.13.0;
`data/autocast.toml` for the operators.
"""

from __future__ import annotations

import threading
import tomllib
import warnings
import weakref
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from profiler.patching import Patches
from profiler.virtual.tensor import EXTRA_KEY, EXTRA_KEYS, aten
from profiler.virtual.torch_api.functions import active_gpu

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_DispatchKey = torch._C.DispatchKey
_OF_TORCH = {"cuda": _DispatchKey.AutocastCUDA, "cpu": _DispatchKey.AutocastCPU}

_ALL_KEYS = EXTRA_KEYS.add(_OF_TORCH["cuda"]).add(_OF_TORCH["cpu"])
_WITH_DTYPE = {
    "norm.Scalar": aten.norm.ScalarOpt_dtype,
    "norm.ScalarOpt_dim": aten.norm.ScalarOpt_dim_dtype,
}
_REFUSED = (
    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast; "
    "torch.nn.functional.binary_cross_entropy_with_logits and BCEWithLogitsLoss are safe"
)
_SWITCHES = ("set_autocast_enabled", "set_autocast_cpu_enabled")


class Autocast:
    """The autocast regions of one virtual GPU's thread.

    The cache is keyed by tensor objects, as torch's is: a weight that is offloaded and onloaded again stays the same.
    """

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._library: torch.library.Library | None = None
        self._cached: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}
        self._orphans: list[torch.Tensor] = []  # casts of weights that are gone

    # -- torch's switches

    def install(self, patches: Patches) -> None:
        """Follow torch's switches; a region that is already open counts."""
        before = torch._C._dispatch_tls_is_dispatch_key_excluded(EXTRA_KEY)
        patches.afterwards(partial(self._leave, before, threading.get_ident()))
        for name in _SWITCHES:
            patches.replace(torch, name, self._then(getattr(torch, name), self._follow))
        clear = self._then(torch.clear_autocast_cache, self._forget)
        patches.replace(torch, "clear_autocast_cache", clear)
        self._follow()

    def _leave(self, excluded: bool, thread: int) -> None:
        """Remove our kernels from torch; a thread that has ended took its own switches along."""
        if threading.get_ident() == thread:
            torch._C._dispatch_tls_set_dispatch_key_excluded(EXTRA_KEY, excluded)
        self._forget()
        if self._library is not None:
            self._library._destroy()
            self._library = None

    def _then(self, original: Callable[..., Any], ours: Callable[[], None]) -> Callable[..., Any]:
        def both(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            if self._gpu.here():
                ours()

        return both

    def _follow(self) -> None:
        enabled = any(map(torch.is_autocast_enabled, _OF_TORCH))
        if enabled and self._library is None:
            self._library = _registered()
        torch._C._dispatch_tls_set_dispatch_key_excluded(EXTRA_KEY, not enabled)

    def _forget(self) -> None:
        self._cached.clear()
        self._orphans.clear()

    # -- casts

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, which replaces operator `name`, with the operator's casts before it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            kinds = _acting(name, (args, kwargs))
            if not kinds:
                return function(*args, **kwargs)
            with torch._C._ExcludeDispatchKeyGuard(_ALL_KEYS):
                for kind in kinds:
                    args, kwargs = self.prepared(kind, name, args, kwargs)
                cast = list(args)
                del args
                result = function(*cast, **kwargs)
                while cast:  # freed in the order of C++, the first one first
                    cast.pop(0)
            return result

        return call

    def prepared(self, kind: str, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return an operator's arguments as autocast for a kind of device passes them on."""
        policy = _policies(kind)[name]
        lower = torch.get_autocast_dtype(kind)
        if policy == "refused":
            raise RuntimeError(_REFUSED)
        if policy == "result":
            return _with_result(kind, name, args, kwargs)
        if policy == "overload":
            return _with_dtype(kind, name, args, kwargs)
        to = {"lower": lower, "single": torch.float32}.get(policy) or _widest(
            kind, lower, (args, kwargs)
        )

        def cast(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor) and _eligible(kind, leaf) and leaf.dtype != to:
                return self._cast(leaf, to, lower)
            return leaf

        # The last argument first: so the compiler of torch's builds evaluates them.
        named = {name: tree_map(cast, value) for name, value in reversed(kwargs.items())}
        given = [tree_map(cast, value) for value in reversed(args)]
        return tuple(reversed(given)), named

    @staticmethod
    def softmax_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
        """Return the dtype of a softmax of `tensor` that is requested in `dtype`."""
        kind = tensor.device.type
        if dtype is None and kind == "cuda" and torch.is_autocast_enabled(kind):
            return torch.float32 if _eligible(kind, tensor) else None
        return dtype

    def _cast(self, tensor: torch.Tensor, dtype: torch.dtype, lower: torch.dtype) -> torch.Tensor:
        """Return `tensor` in `dtype`, from the cache if torch would keep it there.

        Source: `cached_cast` in autocast_mode.cpp.
        """
        kept = (
            dtype == lower
            and tensor.dtype == torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and not tensor._is_view()
            and torch.is_autocast_cache_enabled()
            and not torch.is_inference_mode_enabled()
        )
        if not kept:
            return tensor.to(dtype)
        found = self._cached.get(id(tensor))
        if found is not None:
            weight, cast = found
            if weight() is tensor:
                return cast
            self._orphans.append(cast)
        made = tensor.to(dtype)
        self._cached[id(tensor)] = weakref.ref(tensor), made
        return made


def _acting(name: str, given: Any) -> list[str]:
    """Return the kinds of device whose autocast is on and affects an operator's tensors."""
    enabled = [kind for kind in _OF_TORCH if torch.is_autocast_enabled(kind)]
    if not enabled:
        return []
    devices = {tensor.device.type for tensor in _tensors_in(given)}
    return [kind for kind in enabled if kind in devices and name in _policies(kind)]


def _tensors_in(given: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]


def _eligible(kind: str, tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type == kind and tensor.is_floating_point() and tensor.dtype != torch.float64
    )


def _widest(kind: str, lower: torch.dtype, given: Any) -> torch.dtype:
    """Return single precision if one of the tensors has it, else the region's dtype.

    Source: `prioritize` in autocast_mode.h.
    """
    widest = lower
    for tensor in _tensors_in(given):
        if not _eligible(kind, tensor):
            continue
        if torch.float32 in (widest, tensor.dtype):
            widest = torch.float32
        elif tensor.dtype != lower:
            raise RuntimeError("Unexpected floating ScalarType in at::autocast::prioritize")
    return widest


def _with_result(kind: str, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return arguments that request a result in single precision, if they request none."""
    if not _eligible(kind, args[0]):
        return args, kwargs
    names = [argument.name for argument in _overload(name)._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("dtype") is not None:
        return args, kwargs
    return args[: names.index("dtype")], {**kwargs, "dtype": torch.float32}


def _with_dtype(kind: str, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of the overload in `_WITH_DTYPE`, which has no defaults."""
    dtype = torch.float32 if _eligible(kind, args[0]) else args[0].dtype
    left_out = _overload(name)._schema.arguments[len(args) :]
    defaults = [kwargs.get(argument.name, argument.default_value) for argument in left_out]
    return (*args, *defaults), {"dtype": dtype}


@cache
def listed(kind: str) -> dict[str, str]:
    """Return the policy of each operator that `data/autocast.toml` lists for a kind of device."""
    text = (resources.files("profiler") / "data" / "autocast.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)[kind]
    return {name: policy for policy, names in tables.items() for name in names}


@cache
def _policies(kind: str) -> dict[str, str]:
    """Return the policy of each operator for which torch has an autocast kernel."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    key = _OF_TORCH[kind].name
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    known = [name.removeprefix("aten::") for name in names if has_kernel(name, key)]
    return {name: listed(kind).get(name, "single") for name in known}


def _registered() -> torch.library.Library:
    """Return a library of kernels for all operators that autocast knows; they last until it is destroyed."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch already has kernels for the key
        for name in {name for kind in _OF_TORCH for name in _policies(kind)}:
            library.impl(name, partial(_kernel, name), EXTRA_KEY.name, with_keyset=True)
    return library


def _kernel(name: str, keys: Any, *args: Any, **kwargs: Any) -> Any:
    gpu, kinds = active_gpu(), _acting(name, (args, kwargs))
    overload = _overload(name)
    if gpu is None or not kinds:
        # Operators inside it may still be cast.
        return overload.redispatch(keys.remove(EXTRA_KEY), *args, **kwargs)
    with torch._C._ExcludeDispatchKeyGuard(_ALL_KEYS):
        for kind in kinds:
            args, kwargs = gpu.autocast.prepared(kind, name, args, kwargs)
        if "dtype" in kwargs:
            overload = _WITH_DTYPE.get(name, overload)
        return overload(*args, **kwargs)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")
