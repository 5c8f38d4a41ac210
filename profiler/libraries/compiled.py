"""The traces that `torch.compile` leaves on modules, and torch's private names for them (2.13).

A module is compiled in one of three ways: wrapped in another one, in place (`module.compile()`), or part by part.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

COMPILE = "torch.compile"
RUNS_EAGERLY = "code runs as written, without what a compiler would fuse"
"""The subject of the assumption about compiled code, and its wording."""

IN_PLACE = "_compiled_call_impl"
"""The attribute in which a module that is compiled in place holds the replacement of its own code."""

_WRAPPED = "_orig_mod"
_WRAPPED_FUNCTION = "_torchdynamo_orig_callable"


def is_wrapper(module: Any) -> bool:
    """Tell whether a module is the wrapper that `torch.compile(module)` returns; its truth value must not be tested."""
    return type(module).__name__ == "OptimizedModule" and isinstance(module, nn.Module)


def uncompiled(module: Any) -> Any:
    """Return the module inside `torch.compile`'s wrapper; anything else unchanged."""
    while is_wrapper(module):
        module = module._modules[_WRAPPED]
    return module


def uncompiled_function(function: Any) -> Any:
    """Return the function that was given to `torch.compile`; anything else unchanged."""
    while not isinstance(function, nn.Module) and hasattr(function, _WRAPPED_FUNCTION):
        function = getattr(function, _WRAPPED_FUNCTION)
    return function


def is_compiled(part: nn.Module) -> bool:
    """Tell whether this very module is compiled, or a function that it holds in place of a method."""
    attributes = vars(part)
    return (
        is_wrapper(part)
        or attributes.get(IN_PLACE) is not None
        or any(_is_compiled_function(value) for value in attributes.values())
    )


def _is_compiled_function(value: Any) -> bool:
    return isinstance(value, FunctionType) and _WRAPPED_FUNCTION in vars(value)


def compiled_parts(modules: Iterable[nn.Module]) -> int:
    """Return the number of modules that are compiled, in whole or in part."""
    return sum(any(map(is_compiled, module.modules())) for module in modules)
