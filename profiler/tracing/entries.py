"""Watches components being entered and left, the pipeline's calls, and the scheduler's steps.

`forward` is watched with torch's own module hooks, which survive when accelerate and diffusers replace
`forward`; other entry points with an instance attribute.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

from torch import nn

from profiler.libraries import offload_state as hooks
from profiler.libraries.compiled import IN_PLACE
from profiler.patching import Patches
from profiler.tracing.conditions import Conditions
from profiler.tracing.phases import Phases
from profiler.tracing.recorder import Recorder, Span
from profiler.tracing.standing import Stands, method_of
from profiler.tracing.submodules import SubmoduleSpans


class Entries:
    """Records begin, end, enter and exit events.

    Args:
        recorder: receives the events.
        phases: notified of calls, entries and steps.
        modules: components by name.
        spans: notified of components that are entered and left.
        conditions: notified of calls that begin and end, and of what components return.
    """

    def __init__(
        self,
        recorder: Recorder,
        phases: Phases,
        modules: Mapping[str, nn.Module],
        *,
        spans: SubmoduleSpans,
        conditions: Conditions,
    ) -> None:
        self._recorder = recorder
        self._phases = phases
        self._modules = modules
        self._spans = spans
        self._conditions = conditions
        self._hooked: list[tuple[ref[nn.Module], Callable[..., None]]] = []
        # The error that is being handled around the trace, which outlives it.
        self._earlier = id(sys.exception())

    def watch(
        self, patches: Patches, stands: Stands, target: Any, also: Sequence[Any] = ()
    ) -> None:
        """Wrap every entry point of the components, and of the pipelines or the module itself."""
        self._stands = stands
        if isinstance(target, nn.Module):
            self._watch_forward(target, next(iter(self._modules)), "forward", whole_call=True)
        else:
            self._watch_pipelines(patches, (target, *also))
        for name, module in self._modules.items():
            self._watch_methods(name, module)

    def _watch_pipelines(self, patches: Patches, pipes: Sequence[Any]) -> None:
        values = {id(value): value for pipe in pipes for value in vars(pipe).values()}
        for pipe in {id(pipe): pipe for pipe in pipes}.values():
            patches.replace(type(pipe), "__call__", self._calling(pipe))
        for value in values.values():
            if callable(getattr(type(value), "step", None)) and hasattr(value, "timesteps"):
                self._stands.replace(value, "step", self._stepping(value))
        for name, module in self._modules.items():
            self._watch_forward(getattr(pipes[0], name, module), name, "forward")

    def _watch_methods(self, name: str, module: nn.Module) -> None:
        for entry in hooks.ENTRIES:
            if callable(getattr(type(module), entry, None)):
                self._stands.replace(module, entry, self._method(name, module, entry))
        for path in hooks.INNER_ENTRIES:
            inner = _submodule(module, path)
            if inner is not None:
                self._watch_forward(inner, name, path)

    def unwatch(self) -> None:
        """Remove torch's module hooks. Can be repeated if it was interrupted."""
        while self._hooked:
            module, function = self._hooked[-1]
            _unhook(module(), function)
            self._hooked.pop()

    def _watch_forward(
        self, module: nn.Module, name: str, entry: str, *, whole_call: bool = False
    ) -> None:
        entered: list[bool] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            # A component's inner calls of itself are not entries of their own.
            entered.append(name not in self._recorder.active)
            if entered[-1]:
                if whole_call:
                    self._begin()
                self._enter(name, entry, (args, kwargs))

        def after(_: nn.Module, __: Any, result: Any) -> None:
            if entered.pop():
                self._conditions.left(name, result)
                self._exit(name, entry)
                if whole_call:
                    self._end()

        if vars(module).get(IN_PLACE) is not None:
            # Torch's module hooks would be compiled along with the module.
            self._stands.replace(module, IN_PLACE, _between(before, module, after))
            return
        # Listed first, so that an interrupt leaves no untracked hook behind.
        self._hooked += [(ref(module), before), (ref(module), after)]
        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        module.register_forward_hook(after, always_call=True)

    def _method(self, name: str, module: nn.Module, entry: str) -> Callable[..., Any]:
        original = method_of(module, entry)

        def method(*args: Any, **kwargs: Any) -> Any:
            if name in self._recorder.active:
                return original(*args, **kwargs)
            self._enter(name, entry, (args, kwargs))
            result = None
            try:
                result = original(*args, **kwargs)
                return result
            finally:
                self._conditions.left(name, result)
                self._exit(name, entry)

        return method

    def _calling(self, pipe: Any) -> Callable[..., Any]:
        original, watched = type(pipe).__call__, ref(pipe)

        def call(self_: Any, *args: Any, **kwargs: Any) -> Any:
            if self_ is not watched() or self._phases.call >= 0:
                return original(self_, *args, **kwargs)
            self._begin()
            try:
                result = original(self_, *args, **kwargs)
            finally:
                self._end()
            self._conditions.made(original, (self_, *args), kwargs, result)
            return result

        call.__wrapped__ = original  # type: ignore[attr-defined]  # keeps the signature visible
        return call

    def _stepping(self, scheduler: Any) -> Callable[..., Any]:
        original, watched = method_of(scheduler, "step"), ref(scheduler)

        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._phases.stepped(watched())
            self._recorder.relabel()
            return result

        # Pipelines inspect its signature.
        step.__signature__ = inspect.signature(scheduler.step)  # type: ignore[attr-defined]
        return step

    def _begin(self) -> None:
        self._recorder.settle_gone()  # before this call
        self._phases.begin_call()
        self._conditions.look(self._phases.call)
        self._recorder.instant(Span("begin"))
        self._phases.started()
        self._recorder.relabel()

    def _end(self) -> None:
        self._note_failure(*_running(self._recorder.active))
        self._recorder.instant(Span("end"))
        self._phases.end_call()
        self._recorder.relabel()

    def _note_failure(self, component: str, doing: str) -> None:
        error = sys.exception()
        if error is not None and id(error) != self._earlier:
            self._recorder.note_failure(error, component=component, doing=doing)

    def _enter(self, name: str, entry: str, arguments: tuple[Any, ...]) -> None:
        self._phases.enter(name, entry)
        self._recorder.instant(Span("enter", name, entry=entry))
        self._recorder.active.append(name)
        self._recorder.relabel()
        self._spans.entering(name, entry, arguments)

    def _exit(self, name: str, entry: str) -> None:
        self._recorder.instant(Span("exit", name, entry=entry))
        self._spans.leaving(name)
        self._note_failure(name, entry)
        self._recorder.active.remove(name)
        self._recorder.relabel()


def _between(
    before: Callable[..., None], module: nn.Module, after: Callable[..., None]
) -> Callable[..., Any]:
    """Return the replacement of a module that is compiled in place, called between two functions."""
    original, watched = method_of(module, IN_PLACE), ref(module)

    def compiled(*args: Any, **kwargs: Any) -> Any:
        living = watched()
        assert living is not None
        before(living, args, kwargs)
        result = None
        try:
            result = original(*args, **kwargs)
            return result
        finally:
            after(living, args, result)

    return compiled


def _running(active: list[str]) -> tuple[str, str]:
    """Return the component that was not left, and its activity: an interrupt bypasses torch's module hooks."""
    return (active[-1], "forward") if active else ("", "")


def _unhook(module: nn.Module | None, function: Callable[..., None]) -> None:
    """Remove one of torch's forward hooks from a module; do nothing if it is not there, or the module is gone."""
    if module is None:
        return
    held: dict[int, Any]
    for held in (module._forward_pre_hooks, module._forward_hooks):
        for number in [number for number, hook in held.items() if hook is function]:
            for kept in (
                module._forward_pre_hooks_with_kwargs,
                module._forward_hooks_with_kwargs,
                module._forward_hooks_always_called,
                held,
            ):
                kept.pop(number, None)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None
