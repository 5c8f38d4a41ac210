"""Copies between host and device as made by Python's tensor methods, for GPUs whose model does not report them.

A value that Python reads off the GPU is one: `tensor.item()`, `if tensor:`, `table[tensor]`. Copies that C++ makes for
purposes of its own are not seen: `tensor.nonzero()`, `torch.tensor(..., device=)`.
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
_INDEXING = ("__getitem__", "__setitem__")


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
    for name in _INDEXING:
        patches.replace(torch.Tensor, name, watcher.indexing(getattr(torch.Tensor, name)))
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

    def indexing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that tells of each position that is read off the GPU, as C++ does for a single one.

        Source: `applySlicing` in PyTorch's torch/csrc/autograd/python_variable_indexing.cpp.
        """

        def method(tensor: torch.Tensor, index: Any, *value: Any) -> Any:
            parts = index if isinstance(index, tuple) else (index,)
            read = [one for one in parts if _is_position_on_gpu(one)]
            if self._inside or not read:
                return original(tensor, index, *value)
            result = self._outermost(original, tensor, index, *value)  # which may use `__index__`
            for one in read:
                self._observer("cuda", "cpu", one.element_size())
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


def _is_position_on_gpu(index: Any) -> bool:
    return (
        isinstance(index, torch.Tensor)
        and index.is_cuda
        and not index.dim()
        and not index.is_floating_point()
    )


def _non_blocking(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return the `non_blocking` flag of a call of `to` or `cuda`; it is the first of their positional flags."""
    flags = [one for one in args if isinstance(one, bool)]
    return bool(kwargs.get("non_blocking", flags[0] if flags else False))
