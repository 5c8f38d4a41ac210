"""Watches weights move: whole components, leaves under sequential offload, groups under group offload.

Bytes are computed from the parameters whose device changed, independently of what the link or the allocator counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from profiler.allocator.settings import round_block
from profiler.libraries import offload_state as hooks
from profiler.libraries.modules import (
    main_dtype,
    on_gpu,
    placed_tensors,
    resident_bytes,
    tensors_of,
)
from profiler.libraries.quantised import Slot, beside_weights, inner_tensors
from profiler.patching import Patches
from profiler.tracing.recorder import DROPPED, Recorder, Span
from profiler.tracing.standing import Stands, method_of


class Moves:
    """Records onload, offload and cast events of the given components.

    Args:
        recorder: receives the events.
        modules: components by name.
    """

    def __init__(self, recorder: Recorder, modules: Mapping[str, nn.Module]) -> None:
        self._recorder = recorder
        self._modules = modules
        self._owners: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()
        self._alive = [ref(module, partial(self._gone, name)) for name, module in modules.items()]
        for name, module in modules.items():
            self._owners.update((part, (name, path)) for path, part in module.named_modules())
            recorder.resident[name] = resident_bytes(list(tensors_of(module)))

    def watch(self, patches: Patches, stands: Stands) -> None:
        """Wrap every function that moves weights."""
        for name, module in self._modules.items():
            stands.replace(module, "_apply", self._applying(name, module))
        for method in ("init_hook", "pre_forward", "post_forward"):
            patches.replace(hooks.ALIGN, method, self._aligning(method))
        patches.replace(hooks.GROUP, "onload_", self._grouping("onload_", "onload"))
        patches.replace(hooks.GROUP, "offload_", self._grouping("offload_", "offload"))
        patches.replace(hooks.SENDER, "send_to_device", self._sending())

    def _gone(self, name: str, _: ref[nn.Module]) -> None:
        self._recorder.gone(name)

    # -- a whole component: `.to`, `.cpu`, `.half`, ... all end in `_apply`

    def _applying(self, name: str, module: nn.Module) -> Callable[..., Any]:
        original, watched = method_of(module, "_apply"), ref(module)
        # These are moved by methods of their own, past `_apply`, which therefore does not see each of them.
        wrapped = any(next(beside_weights(part), None) for part in module.modules()) or any(
            inner_tensors(one)[0] is not one for one in module.parameters()
        )

        def _apply(fn: Any, recurse: bool = True) -> Any:
            if self._recorder.in_span:
                return original(fn, recurse)
            module = watched()
            assert module is not None, name
            seen = _Before(fn, module)
            if wrapped:
                seen.look()
            move = Span("move", name, asked_by=hooks.who_asked())
            with self._recorder.span(move) as span:
                try:
                    return original(seen, recurse)
                except BaseException:
                    span.attempted = "cast" if seen.all_on_gpu() else "onload"
                    raise
                finally:  # if memory ran out half-way, a part of it is on the GPU
                    _classify(span, seen.tensors, module)
                    if not span.dropped:
                        _leave_out_dropped(span, fn)
                        span.resident_bytes = resident_bytes(tensors_of(module))

        return _apply

    # -- sequential offload: accelerate's AlignDevicesHook, at leaves

    def _aligning(self, method: str) -> Callable[..., Any]:
        original = vars(hooks.ALIGN)[method]

        def aligned(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            owner = self._owners.get(module)
            if owner is None or self._recorder.in_span:
                return original(hook, module, *args, **kwargs)
            shared = hooks.tied_on_gpu(hook)
            before = _places(hooks.hook_tensors(hook, module))
            asked_by = "accelerate.AlignDevicesHook"
            with self._recorder.span(Span("move", *owner, asked_by=asked_by)) as span:
                try:
                    return original(hook, module, *args, **kwargs)
                finally:
                    self._settle(span, before, hooks.hook_tensors(hook, module), shared)

        return aligned

    # -- group offload: diffusers' ModuleGroup

    def _grouping(self, method: str, kind: str) -> Callable[..., Any]:
        original = vars(hooks.GROUP)[method]

        def grouped(group: Any) -> Any:
            leader = hooks.group_module(group)
            owner = None if leader is None else self._owners.get(leader)
            if owner is None or self._recorder.in_span:
                return original(group)
            tensors = hooks.group_tensors(group)
            before = _places(tensors())
            with self._recorder.span(
                Span("move", *owner, asked_by="diffusers.ModuleGroup")
            ) as span:
                try:
                    return original(group)
                finally:
                    self._settle(span, before, tensors(), set())
                    if kind == "offload" and hooks.group_drops(group):
                        span.bytes, span.to_device = 0, DROPPED
                    elif kind == "onload" and hooks.group_copies_anyway(group):
                        _all_came(span, tensors())

        return grouped

    def _settle(
        self, span: Span, before: list[bool], after: list[torch.Tensor], shared: set[int]
    ) -> None:
        """Record what a hook did to the tensors that it places, and what the component now has on the device."""
        places = {
            id(tensor): (was, tensor) for was, tensor in zip(before, after, strict=True)
        }.values()
        came = [tensor for was, tensor in places if not was and on_gpu(tensor)]
        went = [tensor for was, tensor in places if was and not on_gpu(tensor)]
        new = [tensor for tensor in came if tensor.data_ptr() not in shared]
        resident = self._recorder.resident[span.component]
        if came:
            span.kind, span.from_device, span.to_device = "onload", "cpu", "cuda:0"
            span.bytes = sum(one.nbytes for one in new)
            span.resident_bytes = resident + _rounded(new)
        elif went:
            to_device = DROPPED if went[0].device.type == "meta" else "cpu"
            span.kind, span.from_device, span.to_device = "offload", "cuda:0", to_device
            span.bytes = sum(one.nbytes for one in went) if to_device == "cpu" else 0
            span.resident_bytes = max(resident - _rounded(went), 0)
        else:
            span.dropped = True
        span.dtype = main_dtype(came or went)

    def _sending(self) -> Callable[..., Any]:
        original = hooks.SENDER.send_to_device

        def send_to_device(*args: Any, **kwargs: Any) -> Any:
            outer, self._recorder.sending = self._recorder.sending, True
            self._recorder.relabel()
            try:
                return original(*args, **kwargs)
            finally:
                self._recorder.sending = outer
                self._recorder.relabel()

        return send_to_device


def _all_came(span: Span, tensors: list[torch.Tensor]) -> None:
    """Record that all tensors were onloaded, even those already there: they were sent again from their host copies."""
    sent = {id(tensor): tensor for tensor in tensors if on_gpu(tensor)}.values()
    span.dropped = not sent
    span.kind, span.from_device, span.to_device = "onload", "cpu", "cuda:0"
    span.bytes = sum(one.nbytes for one in sent)
    span.dtype = main_dtype(list(sent))


class _Before:
    """A stand-in for the function that `_apply` calls on each tensor; records the state before the first change.

    Most calls change nothing, such as a pipeline's `.to` to the device it is on: reading every tensor would take
    longer than the call itself.
    """

    def __init__(self, fn: Callable[[torch.Tensor], torch.Tensor], module: nn.Module) -> None:
        self.tensors: dict[Slot, tuple[str, torch.dtype]] = {}
        self._fn = fn
        self._module = module

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        result = self._fn(tensor)
        if result is not tensor and not self.tensors:
            self.look()
        return result

    def look(self) -> None:
        """Record the device and dtype of each tensor by its slot; a tied one only by its first slot."""
        seen: set[int] = set()
        for slot, tensor in placed_tensors(self._module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                self.tensors[slot] = (tensor.device.type, tensor.dtype)

    def all_on_gpu(self) -> bool:
        """Tell whether everything was on the device."""
        if not self.tensors:
            self.look()
        return all(device == "cuda" for device, _ in self.tensors.values())


def _classify(span: Span, before: dict[Slot, tuple[str, torch.dtype]], module: nn.Module) -> None:
    """Classify what a call of `_apply` did to `module`: onload, offload, cast, or nothing."""
    if not before:
        span.dropped = True
        return
    placed = dict(placed_tensors(module))  # once each, also of a module that has two parents
    now = [(was, placed[slot]) for slot, was in before.items() if slot in placed]
    after = [tensor for _, tensor in now]
    cast = [tensor for (_, dtype), tensor in now if dtype != tensor.dtype]
    moved: Counter[tuple[str, str]] = Counter()
    for (device, _), tensor in now:
        moved[device, tensor.device.type] += tensor.nbytes
    up, down = moved["cpu", "cuda"], moved["cuda", "cpu"]
    span.dtype = main_dtype(after)
    if up:
        span.kind, span.bytes, span.from_device, span.to_device = "onload", up, "cpu", "cuda:0"
    elif down:
        span.kind, span.bytes, span.from_device, span.to_device = "offload", down, "cuda:0", "cpu"
    elif cast:
        place = str(after[0].device)
        span.kind, span.bytes, span.from_device, span.to_device = (
            "cast",
            sum(one.nbytes for one in cast),
            place,
            place,
        )
        span.dtype = main_dtype(cast)
    else:
        span.dropped = True


def _leave_out_dropped(span: Span, fn: Any) -> None:
    """Count only what was copied, if `fn` gave tensors host copies that existed already (`profiler.applying`)."""
    dropped_bytes = getattr(fn, "dropped_bytes", 0)
    if span.kind == "offload" and dropped_bytes:
        span.bytes -= dropped_bytes
        if not span.bytes:
            span.to_device = DROPPED


def _places(tensors: Iterable[torch.Tensor]) -> list[bool]:
    return [on_gpu(tensor) for tensor in tensors]


def _rounded(tensors: list[torch.Tensor]) -> int:
    return sum(round_block(tensor.nbytes) for tensor in tensors)
