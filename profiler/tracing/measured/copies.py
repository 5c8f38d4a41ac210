"""Copies between host and device as made by Python's tensor methods, for GPUs whose model does not report them.

A value that Python reads off the GPU is one: `tensor.item()`, `if tensor:`, `range(tensor)`. Copies that C++ makes for
purposes of its own are not seen: `table[tensor]`, `tensor.nonzero()`, `torch.tensor(..., device=)`. To watch indexing,
`__getitem__` would have to be replaced, which Python never undoes wholly: a class that had it once keeps the slot of a
sequence, and `torch.Tensor([number])` fails from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from profiler.patching import Patches
from profiler.tracing.reader import CopyObserver
from profiler.virtual.copies import crossing_dtype

_RETURNING = ("to", "cpu", "cuda")
_READING = ("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__")


def watch_methods(patches: Patches, owners: tuple[type, ...], observer: CopyObserver) -> None:
    """Call `observer` for each copy that a tensor method makes.

    Args:
        patches: takes what is replaced.
        owners: classes of tensors that have these methods: `torch.Tensor`, and those that override it.
        observer: called for the outermost method only, if one calls another.
    """
    watcher = _Watcher(observer)
    for owner in owners:
        for name in _RETURNING:
            if owner is torch.Tensor or name in vars(owner):
                patches.replace(owner, name, watcher.returning(getattr(owner, name)))
        for name in _READING:
            if owner is torch.Tensor or name in vars(owner):
                patches.replace(owner, name, watcher.reading(getattr(owner, name)))
    patches.replace(torch.Tensor, "copy_", watcher.writing(torch.Tensor.copy_))


class _Watcher:
    def __init__(self, observer: CopyObserver) -> None:
        self._observer = observer
        self._inside = False

    def returning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(tensor, *args, **kwargs)
            result = self._outermost(original, tensor, *args, **kwargs)
            if result is not tensor:
                self._tell(tensor, result, non_blocking=_non_blocking(args, kwargs))
            return result

        return method

    def writing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def copy_(tensor: torch.Tensor, source: Any, non_blocking: bool = False) -> Any:
            if self._inside:
                return original(tensor, source, non_blocking)
            result = self._outermost(original, tensor, source, non_blocking)
            self._tell(source, tensor, non_blocking=non_blocking)
            return result

        return copy_

    def reading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(tensor: torch.Tensor, *args: Any) -> Any:
            if self._inside or not tensor.is_cuda:
                return original(tensor, *args)
            result = self._outermost(original, tensor, *args)
            self._observer("cuda", "cpu", tensor.numel() * tensor.element_size())
            return result

        return method

    def _outermost(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._inside = True
        try:
            return original(*args, **kwargs)
        finally:
            self._inside = False

    def _tell(self, source: torch.Tensor, target: torch.Tensor, *, non_blocking: bool) -> None:
        kinds = (source.device.type, target.device.type)
        if kinds in (("cpu", "cuda"), ("cuda", "cpu")):
            dtype = crossing_dtype(kinds, source, target, non_blocking=non_blocking)
            self._observer(*kinds, target.numel() * dtype.itemsize)


def _non_blocking(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return the `non_blocking` flag of a call of `to` or `cuda`; it is the first of their positional flags."""
    flags = [one for one in args if isinstance(one, bool)]
    return bool(kwargs.get("non_blocking", flags[0] if flags else False))
