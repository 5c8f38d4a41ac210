"""Twins of functions that replace a method: whatever they hold of the original becomes the twin's.

`copy.deepcopy` treats a function as a constant, so that a patched `forward` would go on computing with the original's
weights. Here a function is rebuilt around twins of what its closure holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.libraries.compiled import uncompiled_function

_CONSTANT = (BuiltinFunctionType, ModuleType, type)


def replace_methods(twin: Any, thing: Any, memo: dict[int, Any], left_out: frozenset[str]) -> None:
    """Give a twin the twins of the functions that an object holds in place of methods.

    Args:
        twin: the twin.
        thing: the original.
        memo: of `copy.deepcopy`: the objects that have a twin.
        left_out: the names that are left behind.

    Raises:
        InputError: if one of them holds something that has no copy.
    """
    for name, function in _replaced_methods(thing, left_out):
        vars(twin).pop(name, None)
        if function is not None:
            vars(twin)[name] = _followed(function, memo, f"{type(thing).__name__}.{name}")


def _replaced_methods(thing: Any, left_out: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the functions that an object holds in place of methods, as before a library hooked or compiled them.

    None stands for one that is the class's own method.
    """
    for name, value in vars(thing).items():
        if name in left_out or not isinstance(value, FunctionType | MethodType | partial):
            continue
        found = _bare(vars(thing).get(private.OLD_FORWARD, value) if name == "forward" else value)
        own = isinstance(found, MethodType) and found.__self__ is thing
        yield name, None if own and found.__func__ is getattr(type(thing), name, None) else found


def _bare(function: Any) -> Any:
    """Return the function inside the wrappers of torch.compile, and of accelerate and diffusers, which are partials."""
    while True:
        inner = uncompiled_function(function)
        if isinstance(inner, partial) and hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        if inner is function:
            return inner
        function = inner


def _followed(function: Any, memo: dict[int, Any], where: str) -> Any:
    """Return the twin of a function, which is found at `where`."""
    if id(function) in memo:
        return memo[id(function)]
    try:
        return _twin(uncompiled_function(function), memo)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{where} is {_name(function)}, which holds what cannot be copied for a virtual GPU ({error}): "
            "take it off, or profile the pipe on a GPU"
        ) from error


def _twin(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, _CONSTANT):
        return value
    if isinstance(value, MethodType):
        return MethodType(_twin(value.__func__, memo), _twin(value.__self__, memo))
    if isinstance(value, partial):
        words = {name: _twin(word, memo) for name, word in value.keywords.items()}
        return partial(_twin(value.func, memo), *(_twin(arg, memo) for arg in value.args), **words)
    if isinstance(value, FunctionType):
        return _twin_of_function(value, memo)
    return copy.deepcopy(value, memo)


def _twin_of_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    if function.__closure__ is None and function.__defaults__ is None:
        return function
    cells = tuple(CellType() for _ in function.__closure__ or ())
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, closure=cells or None
    )
    memo[id(function)] = twin  # the function may refer to itself
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _twin(original.cell_contents, memo)
        except ValueError:  # an empty cell
            continue
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__defaults__ = tuple(_twin(one, memo) for one in function.__defaults__ or ()) or None
    return twin


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
