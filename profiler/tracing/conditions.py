"""The conditions of a trace that no event shows: hooks on components, exclusions on a class, files that weights share.

They are checked when a call begins and when the trace ends; the pipeline is only read.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from torch import nn

from profiler.libraries import hooks as private
from profiler.libraries import offload_state as hooks
from profiler.record.profile import Condition
from profiler.tracing.made_size import other_size


class Conditions:
    """Collects the conditions of one trace.

    Args:
        target: the pipeline, or the module that is traced alone.
        modules: components by name.
    """

    def __init__(self, target: Any, modules: Mapping[str, nn.Module]) -> None:
        self._module = isinstance(target, nn.Module)
        self._target = ref(target)
        self._modules = modules
        self._seen: dict[tuple[str, str, str], Condition] = {}
        self._mode = ""

    @property
    def _pipe(self) -> Any:
        """The pipeline; None if a module is traced, or the pipeline is gone."""
        return None if self._module else self._target()

    def look(self, call: int) -> None:
        """Record the state of the hooks as call number `call` begins."""
        if self._pipe is None:
            return
        mode = hooks.mode_of(self._pipe, self._modules)
        if mode != self._mode:
            self._mode = mode
            self._seen["mode", mode, str(call)] = Condition(what="mode", call=call, detail=mode)
        for what, name in self._hook_states():
            self._seen.setdefault((what, name, ""), Condition(what=what, component=name, call=call))

    def left(self, name: str, result: Any) -> None:
        """Record that a component was left, and whether autograd retains its activations.

        Args:
            name: the component.
            result: its return value; None if it failed, perhaps because of those activations.
        """
        if not torch.is_grad_enabled() or ("gradients", name, "") in self._seen:
            return
        tensors = self._modules[name].parameters() if result is None else _tensors(result)
        if any(one.requires_grad for one in tensors):
            self._seen["gradients", name, ""] = Condition(what="gradients", component=name)

    def made(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Record the size of a call's result if it is not the requested one."""
        detail = other_size(call, args, kwargs, result)
        if detail:
            self._seen["made_size", "", detail] = Condition(what="made_size", detail=detail)

    def found(self) -> tuple[Condition, ...]:
        """Return the conditions found so far, and those that are only checked at the end of the trace."""
        return (*self._seen.values(), *self._exclusions(), *self._files(), *self._castings())

    def _hook_states(self) -> Iterator[tuple[str, str]]:
        inner = private.inner_pipelines(self._pipe)
        listed = [hook for one in (self._pipe, *inner) for hook in private.offload_hooks(one)]
        own = {id(hook.hook) for hook in listed}
        ours = {id(hook.model) for hook in listed}
        for name, module in self._modules.items():
            carried = {id(hook) for hook in private.model_hooks_on(module)}
            if carried and not listed:
                yield "unlisted_hook", name
            elif carried - own:
                yield "foreign_hook", name
            elif id(module) in ours and not carried:
                yield "no_hook", name

    def _exclusions(self) -> Iterator[Condition]:
        if self._pipe is None or private.EXCLUDED in vars(self._pipe):
            return
        owner = next(
            (one for one in type(self._pipe).__mro__ if private.EXCLUDED in vars(one)), None
        )
        if owner is None:
            return
        written = _written_exclusions(owner)
        added = (
            []
            if written is None
            else [n for n in vars(owner)[private.EXCLUDED] if n not in written]
        )
        for name in dict.fromkeys(added):
            yield Condition(what="shared_exclusions", component=name, detail=owner.__name__)

    def _files(self) -> Iterator[Condition]:
        writers: dict[str, str] = {}
        shared: dict[tuple[str, str], None] = {}
        for name, module in self._modules.items():
            for path in hooks.group_files(module):
                other = writers.setdefault(path, name)
                if other != name:
                    shared[name, other] = None
        for name, other in shared:
            yield Condition(what="shared_file", component=name, detail=other)

    def _castings(self) -> Iterator[Condition]:
        for name, module in self._modules.items():
            dtypes = hooks.casting_dtypes(module)
            if dtypes is not None:
                yield Condition(what="layerwise_casting", component=name, detail=dtypes[0])


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that a component returned, by themselves or in a record."""
    values = result.values() if isinstance(result, dict) else result
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, Iterable):
        yield from (value for value in values if isinstance(value, torch.Tensor))


@lru_cache(maxsize=64)
def _written_exclusions(owner: type) -> list[str] | None:
    """Return the list of exclusions that a class assigns in its source, or None if it cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):
        return None
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for line in body:
        names = line.targets if isinstance(line, ast.Assign) else []
        if any(isinstance(name, ast.Name) and name.id == private.EXCLUDED for name in names):
            try:
                return list(ast.literal_eval(line.value))  # type: ignore[attr-defined]
            except ValueError:
                return None
    return None
