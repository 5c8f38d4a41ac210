"""Checks of the kinds of arguments, with one sentence for whoever passes something else."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from profiler.errors import InputError

if TYPE_CHECKING:
    from types import UnionType

_LONGEST = 60  # characters of a value that are shown

_PIPELINE = "a loaded diffusers pipeline"
_INSTEAD = {
    "Profile": "plan_offload() takes profiles",
    "Plan": "plan.apply(pipe) puts a plan into effect",
    "Scenario": "profile_model() takes scenarios",
}
_MODULE = "give the pipeline that holds it, or trace one module by `with trace(module):`"
_LOAD = "load it first, with DiffusionPipeline.from_pretrained() or load_pipeline()"


def check_given(given: Any, kind: type | UnionType, *, to: str, instead: str) -> None:
    """Raise InputError unless `given` is a `kind`.

    Args:
        given: The argument.
        kind: The type or types accepted.
        to: The function, as it is called.
        instead: Advice on what to pass.
    """
    if not isinstance(given, kind):
        names = [one.__name__ for one in get_args(kind) or (kind,)]
        raise InputError(f"{to} takes a {' or a '.join(names)}, not {named(given)}: {instead}")


def check_pipeline(given: Any, *, to: str, takes: str = _PIPELINE) -> None:
    """Raise InputError unless `given` is a pipeline: an object that has components and can be called.

    Args:
        given: The argument.
        to: The function, as it is called.
        takes: Description of what the function accepts.
    """
    if not is_pipeline(given):
        raise InputError(f"{to} takes {takes}, not {named(given)}: {_hint(given)}")


def check_pipelines(given: Any, *, to: str) -> None:
    """Raise InputError unless `given` is a list or tuple of pipelines."""
    if not isinstance(given, list | tuple):
        raise InputError(f"{to} takes a list of pipelines, not {named(given)}: write [pipe]")
    for one in given:
        check_pipeline(one, to=to, takes="loaded diffusers pipelines")


def is_pipeline(given: Any) -> bool:
    """Tell whether `given` has components and can be called, like diffusers' pipelines."""
    if inspect.isclass(given) or not callable(given):
        return False
    return isinstance(getattr(given, "components", None), Mapping)


def _hint(given: Any) -> str:
    kinds = [kind.__name__ for kind in type(given).__mro__]
    if "Module" in kinds:
        return _MODULE
    return next((_INSTEAD[kind] for kind in kinds if kind in _INSTEAD), _LOAD)


def named(given: Any) -> str:
    """Return a phrase for `given`: `None`, `'sdxl-base'`, `a UNet2DConditionModel`, `the class Plan`."""
    if inspect.isclass(given):
        return f"the class {given.__name__}"
    if given is None or isinstance(given, str | bytes | int | float | os.PathLike):
        text = repr(given)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    kind = type(given).__name__
    return f"{'an' if kind[:1].upper() in 'AEIO' else 'a'} {kind}"


def file_of(path: Any, *, to: str) -> Path:
    """Return `path` as a `Path`.

    Raises:
        InputError: if it is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{to} takes the path of a file, not {named(path)}")
    return Path(path)


def words_of(given: Any, what: str) -> tuple[str, ...]:
    """Return words, given as comma-separated text ("none" for none) or one by one.

    Raises:
        InputError: if they are neither.
    """
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{what} are words, as 'a,b', ('a', 'b') or 'none', not {named(given)}")
    stripped = (word.strip() for word in words)
    return tuple(word for word in stripped if word and word != "none")
