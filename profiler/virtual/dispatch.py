"""Cached operator dispatch: the effect of an operator is learned once, and then repeated without asking torch.

The key consists of the operator, the tags of its tensors and its other arguments; the entry holds the metadata of each
output, the storage it shares, and what the kernel needs while it runs. A miss runs the operator on meta tensors
(`operators.py`). The cache never changes a figure: every hit accounts for storages, workspaces, copies, time and
values exactly as the miss did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from profiler.libraries.quantised import is_wrapper
from profiler.virtual.precision import BY_PRECISION, precision_settings
from profiler.virtual.steps import OUTPUT, Output, Steps, around_work
from profiler.virtual.storage import Storage
from profiler.virtual.tensor import EXTRA_KEYS, META, VirtualTensor
from profiler.virtual.workspaces import NOTHING

if TYPE_CHECKING:
    from profiler.virtual.copies import LinkCopy
    from profiler.virtual.device import Device

NEW, ARGUMENT = -1, -2

_make = torch.Tensor._make_wrapper_subclass
_OPTIONS: dict[str, Any] = {"device": META, "_extra_dispatch_keys": EXTRA_KEYS}


class Out(NamedTuple):
    """One output: a view of argument `source`'s storage, a NEW one, or the ARGUMENT of that position itself."""

    source: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int  # of a new storage
    tag: int
    device: torch.device
    position: int = 0
    pinned: bool = False


class LearnedOperator:
    """The effect of one operator on arguments with certain metadata.

    Attributes:
        outs: its outputs, in order; those that are not tensors as themselves.
        shape_of_result: "one", "list" or "none".
        steps: what it allocates and frees around and between its outputs (`steps.py`).
        workspace: the kernel's workspace, taken after the outputs and the temporaries are allocated.
        soft: whether the kernel runs without it if it does not fit.
        blas: whether it needs the cuBLAS handle's workspace.
        seconds: the time that the GPU works on it; 0 on the host.
        writes: indices of the tensors it writes to.
        valued: whether it is small enough to be computed if all values are known.
        copy: the copy over the link, if there is one.
    """

    __slots__ = (
        "blas",
        "copy",
        "on_gpu",
        "outs",
        "plain",
        "seconds",
        "shape_of_result",
        "soft",
        "steps",
        "valued",
        "workspace",
        "writes",
    )

    def __init__(self, outs: tuple[Out | int | None, ...], shape_of_result: str) -> None:
        self.outs = outs
        self.shape_of_result = shape_of_result
        self.steps: Steps = ()
        self.workspace = NOTHING
        self.soft = False
        self.blas = False
        self.seconds = 0.0
        self.on_gpu = False
        self.writes: tuple[int, ...] = ()
        self.valued = False
        self.copy: LinkCopy | None = None
        self.plain = True

    def settle(self) -> LearnedOperator:
        """Determine whether the short path may be taken; to be called once all attributes are set."""
        self.plain = not (
            self.workspace.most
            or self.steps
            or self.blas
            or self.writes
            or self.valued
            or self.copy
        )
        return self


class NeedsLiftError(Exception):
    """A real tensor among the arguments."""


class LeftToWrapperError(Exception):
    """A wrapper tensor among the arguments: its own class takes the operator apart."""


def key_of(args: Any, tensors: list[VirtualTensor]) -> tuple[Any, ...]:
    """Return the cache key of positional arguments and append their tensors to `tensors`.

    Raises:
        NeedsLiftError: if one of them is a real tensor.
        LeftToWrapperError: if one of them is a tensor that holds others.
    """
    key: list[Any] = []
    for arg in args:
        kind = type(arg)
        if kind is VirtualTensor:
            key.append(arg.tag)
            tensors.append(arg)
        elif kind is int:  # tags are far below any integer that an operator takes
            key.append(arg)
        elif kind is list or kind is tuple:
            key.append(key_of(arg, tensors))
        elif isinstance(arg, VirtualTensor):  # a library's parameter (`subclasses.py`)
            key.append(arg.tag)
            tensors.append(arg)
        elif isinstance(arg, torch.Tensor):
            raise (LeftToWrapperError if is_wrapper(arg) else NeedsLiftError)
        else:
            key.append(arg)
            key.append(kind)
    return tuple(key)


class Dispatcher:
    """Serves all operators of one virtual GPU. It holds no tensors."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self.cache: dict[Any, LearnedOperator] = {}
        self._anywhere: dict[Any, LearnedOperator] = {}  # the same, by keys without offsets
        self.operators = 0

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors: list[VirtualTensor] = []
        try:
            # Factories, and operators that promote integers, depend on torch's default dtype.
            key: Any = (id(func), torch.get_default_dtype(), key_of(args, tensors))
            if func in BY_PRECISION:
                key += precision_settings()
            if kwargs:
                key += (tuple(kwargs), key_of(kwargs.values(), tensors))
        except LeftToWrapperError:
            return NotImplemented
        except NeedsLiftError:
            lifted_args, lifted_kwargs = self.gpu.operators.lifted(args, kwargs)
            return self(func, lifted_args, lifted_kwargs)
        entry = self.cache.get(key)
        if entry is None:
            special = self.gpu.operators.special(func, args)
            if special is not None:
                return special(func, args, kwargs)
            entry = self.cache[key] = self._missed(key, func, args, kwargs, tensors)
        return self.run(entry, func, args, kwargs, tensors)

    def _missed(
        self, key: Any, func: Any, args: Any, kwargs: Any, tensors: list[VirtualTensor]
    ) -> LearnedOperator:
        """Return a new key's entry: a learned one, or that of the same tensors at other offsets in their storages.

        A scheduler takes another element of its tables in every step. The offset of an argument in its storage only
        determines the offsets of views of it.
        """
        anywhere = self._without_offsets(key)
        entry = self._anywhere.get(anywhere)
        if entry is None:
            with self.gpu.suspended():
                entry = self.gpu.operators.learn(func, args, kwargs, tensors)
            if not any(isinstance(out, Out) and out.source >= 0 for out in entry.outs):
                self._anywhere[anywhere] = entry
        return entry

    def _without_offsets(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        found: list[Any] = []
        for part in key:
            if type(part) is tuple:
                found.append(self._without_offsets(part))
            else:
                found.append(self.gpu.tags.at_start(part) if type(part) is int else part)
        return tuple(found)

    def run(
        self,
        entry: LearnedOperator,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        tensors: list[VirtualTensor],
    ) -> Any:
        """Apply `entry` and return the operator's result."""
        gpu = self.gpu
        self.operators += 1
        if entry.steps:
            return self._run_in_steps(entry, func, args, kwargs, tensors)
        result: Any
        if entry.shape_of_result == "one":
            result = self.build(entry.outs[0], tensors)
        else:
            result = self._several(entry, tensors)
        if entry.on_gpu:
            gpu.clock.launch(gpu.launch_seconds, entry.seconds)
        if not entry.plain:
            self._account(entry, func, args, kwargs, tensors, result)
        return result

    def _run_in_steps(
        self,
        entry: LearnedOperator,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        tensors: list[VirtualTensor],
    ) -> Any:
        """Do the same for an operator with temporaries; the kernel runs before the last of them are freed."""
        gpu = self.gpu
        made: dict[int, Any] = {}
        until_work, afterwards = around_work(entry.steps)
        with gpu.temporaries() as held:
            for step in until_work:
                if not isinstance(step, Output):
                    held.take(step)
                    continue
                for index in _made_at(step, entry):
                    if index not in made:
                        made[index] = self.build(entry.outs[index], tensors)
            result = _shaped(entry, [made[index] for index in range(len(entry.outs))])
            if entry.on_gpu:
                gpu.clock.launch(gpu.launch_seconds, entry.seconds)
            self._account(entry, func, args, kwargs, tensors, result)
            for step in afterwards:
                held.take(step)
        return result

    def build(self, out: Out | int | None, tensors: list[VirtualTensor]) -> Any:
        """Return the tensor that `out` describes; anything that is not a tensor is returned unchanged."""
        if type(out) is not Out:
            return out
        source, shape, stride, dtype, offset, nbytes, tag, device, position, pinned = out
        if source == ARGUMENT:
            return tensors[position]
        if source == NEW:
            storage = Storage(self.gpu, device, nbytes, pinned)
        else:
            storage = tensors[source].storage_record
        if torch.is_inference_mode_enabled():
            # A view of a tensor made outside inference mode is not an inference tensor, and C++ insists on that.
            with torch.inference_mode(mode=False):
                tensor = _make(VirtualTensor, shape, stride, offset, dtype=dtype, **_OPTIONS)
        else:
            tensor = _make(VirtualTensor, shape, stride, offset, dtype=dtype, **_OPTIONS)
        tensor.storage_record = storage
        tensor.tag = tag
        return tensor

    def _several(self, entry: LearnedOperator, tensors: list[VirtualTensor]) -> Any:
        if entry.shape_of_result == "none":
            return None
        return [self.build(out, tensors) for out in entry.outs]

    def _account(
        self,
        entry: LearnedOperator,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        tensors: list[VirtualTensor],
        result: Any,
    ) -> None:
        gpu = self.gpu
        if entry.blas:
            gpu.need_blas_workspace()
        self._use_workspace(entry)
        if entry.copy is not None:
            host = tensors[-1] if entry.copy.source == "cpu" else result
            storage = host.storage_record
            gpu.copy(entry.copy, storage.pinned_block, pinned=storage.pinned)
        if entry.valued or entry.writes:
            gpu.values.follow(entry, func, args, kwargs, tensors, result)

    def _use_workspace(self, entry: LearnedOperator) -> None:
        if entry.workspace.most:
            self.gpu.use_workspace(entry.workspace, soft=entry.soft)


def _shaped(entry: LearnedOperator, made: list[Any]) -> Any:
    if entry.shape_of_result == "none":
        return None
    return made[0] if entry.shape_of_result == "one" else made


def _made_at(step: Output, entry: LearnedOperator) -> range | tuple[int]:
    """Return the positions of the outputs that a step makes."""
    return range(len(entry.outs)) if step == OUTPUT else (step.position,)
