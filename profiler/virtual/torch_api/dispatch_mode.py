"""The changes of a virtual GPU to a thread's own state: the stack of dispatch modes, and whether gradients are on.

The stack is restored as a whole, so that nothing of the GPU stays behind after an interrupt inside an operator, which
may leave more or fewer modes on it, or if a mode is left in the wrong order.

Source: `TorchDispatchMode.__enter__` and `__exit__` in PyTorch 2.13, torch/utils/_python_dispatch.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo.guards import set_is_in_mode_without_ignore_compile_internals
from torch._ops import HigherOrderOperator
from torch.utils import _python_dispatch as dispatch

from profiler.patching import Patches

_FLAGS = {
    "_is_in_torch_dispatch_mode": "old_dispatch_mode_flags",
    "_is_in_non_infra_torch_dispatch_mode": "old_non_infra_dispatch_mode_flags",
    "_is_in_any_mode_without_ignore_compile_internals": (
        "old_without_ignore_compile_internals_dispatch_mode_flags"
    ),
}
"""Torch's variables that tell whether any mode is entered, and the attributes in which a mode keeps earlier values."""


class VirtualMode(dispatch.TorchDispatchMode):
    """Sends every operator to a virtual GPU's dispatcher, and those that take functions to a function of their own."""

    supports_higher_order_operators = True

    def __init__(self, serve: Callable[..., Any], serve_higher_order: Callable[..., Any]) -> None:
        super().__init__()
        self._serve, self._serve_higher_order = serve, serve_higher_order

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch wraps `__torch_dispatch__`, which costs half a microsecond per operator.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self._serve_higher_order(func, args, kwargs or {})
        return self._serve(func, args, kwargs)


def install(
    serve: Callable[..., Any], serve_higher_order: Callable[..., Any], patches: Patches
) -> None:
    """Send this thread's operators to `serve`, without gradients, until `patches` are restored.

    Args:
        serve: Takes an operator, its positional arguments, and its keyword arguments or None.
        serve_higher_order: The same for operators that take functions.
        patches: Collects what is to be restored.
    """
    thread = threading.get_ident()
    gradients = torch.is_grad_enabled()
    modes = _stack()
    flags = {name: getattr(dispatch, name) for name in _FLAGS}

    def put_back() -> None:
        vars(dispatch).update(flags)
        if threading.get_ident() != thread:
            return  # the other one has ended, and its stack with it
        torch._C._set_grad_enabled(gradients)
        since = _put_back_stack(modes)
        for name, kept in _FLAGS.items():
            for mode in since[:1]:  # it found the GPU's flags, and would restore them
                vars(dispatch)[name] = True
                getattr(mode, kept)[0] = flags[name]
        now = dispatch._is_in_any_mode_without_ignore_compile_internals
        set_is_in_mode_without_ignore_compile_internals(now)

    patches.afterwards(put_back)
    torch._C._set_grad_enabled(False)
    VirtualMode(serve, serve_higher_order).__enter__()


def _stack() -> list[Any]:
    """Return this thread's dispatch modes, the innermost last."""
    return dispatch._get_current_dispatch_mode_stack()


def _put_back_stack(before: list[Any]) -> list[Any]:
    """Restore the modes of `before`, with later modes of other code that are still entered on top; return those."""
    now = _stack()
    since = [mode for mode in now if not isinstance(mode, VirtualMode) and mode not in before]
    if now != before + since:
        for _ in now:
            dispatch._pop_mode()
        for mode in before + since:
            dispatch._push_mode(mode)
    return since
