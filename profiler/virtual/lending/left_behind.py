"""The hooks and functions of a module that its twin leaves behind, and those that it takes along.

Hooks that move weights are left behind: the twin's own mode does that. Those that torch itself needs (weight norm) and
functions that replace a method are taken along. A user's own hook is left behind and assumed to change no figure:
it would write virtual tensors into the user's data. Hooks of diffusers are handled in `lending/hooks.py`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from profiler.libraries import hooks as private
from profiler.libraries.compiled import COMPILE, IN_PLACE, RUNS_EAGERLY, is_compiled
from profiler.virtual.lending.functions import replace_methods

if TYPE_CHECKING:
    from profiler.virtual.values import Values

HOOK = "hook"
"""The subject of the assumption about a user's own hook."""

_CAPTURING = "transformers.utils.output_capturing"
_CAPTURES = "_output_capturing_hooks_installed"
"""Marks a model on which transformers (5.23) has put its capturing hooks, which it does at most once."""

_LEFT_OUT = frozenset({*private.MODULE_STATE, IN_PLACE}) - {"forward"}
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def assume(values: Values, modules: Iterable[nn.Module]) -> None:
    """Count the assumptions about how the twins differ from the originals."""
    for module in modules:
        parts = list(module.modules())
        if any(map(is_compiled, parts)):
            values.assume(COMPILE, RUNS_EAGERLY)
        for _ in (hook for part in parts for _, _, hook in _hooks(part) if _is_users(hook)):
            values.assume(HOOK, "a hook on a module's forward is left out")


def leave(module: nn.Module, memo: dict[int, Any]) -> None:
    """Exclude a module's hooks, and their references to other modules, from being copied."""
    for name in private.MODULE_HOOKS:
        if name in vars(module):
            memo[id(vars(module)[name])] = None
    for name in _FORWARD_HOOKS:
        memo[id(vars(module)[name])] = OrderedDict()


def take_along(module: nn.Module, memo: dict[int, Any]) -> None:
    """Strip the twin of a module, and attach the hooks that it must have."""
    twin = memo[id(module)]
    for name in (*private.MODULE_HOOKS, *private.MODULE_STATE, _CAPTURES):
        vars(twin).pop(name, None)
    for name, number, hook in _hooks(module):
        if _is_torchs(hook):
            vars(twin)[name][number] = copy.deepcopy(hook, memo)
    replace_methods(twin, module, memo, _LEFT_OUT)


def _hooks(module: nn.Module) -> Iterator[tuple[str, int, Any]]:
    for name in _FORWARD_HOOKS:
        for number, hook in vars(module)[name].items():
            yield name, number, hook


def _home(hook: Any) -> str:
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def _is_torchs(hook: Any) -> bool:
    return _home(hook).startswith("torch.")


def _is_users(hook: Any) -> bool:
    return not _is_torchs(hook) and _home(hook) != _CAPTURING
