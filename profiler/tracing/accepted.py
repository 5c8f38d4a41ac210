"""Checks that a pipeline's call takes the arguments it is given, and that a profile has the fields of a label."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from profiler.checking.given import check_given
from profiler.errors import InputError
from profiler.pipelines.recorded_call import CACHED_PROMPT
from profiler.record.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterable

_LABELS = (
    "model",
    "config",
    "call",
    "call_defaults",
    "signatures",
    "dtype",
    "dtypes",
    "quantization",
)
_SWALLOWED = ("callback", "callback_steps")
"""Arguments that diffusers' calls (0.42) take from their `**kwargs`; anything else in there is silently ignored."""


def check_accepted(pipe: Any, names: Iterable[str]) -> None:
    """Raise InputError for the first argument that the call of `pipe` does not take, or would ignore."""
    parameters = inspect.signature(type(pipe).__call__).parameters.values()
    swallows = any(one.kind is one.VAR_KEYWORD for one in parameters)
    if swallows and not type(pipe).__module__.startswith("diffusers."):
        return
    accepted = [
        one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    accepted = [*accepted[1:], *(_SWALLOWED if swallows else ()), *_of_blocks(pipe)]
    for name in names:
        if name not in (*accepted, CACHED_PROMPT):
            close = difflib.get_close_matches(name, accepted, n=2)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"it takes {', '.join(accepted) or 'none'}"
            )
            raise InputError(f"{type(pipe).__name__} takes no argument {name!r}: {hint}")


def _of_blocks(pipe: Any) -> list[str]:
    """Return the arguments that a modular pipeline's blocks take from the call's `**kwargs`."""
    return [one.name for one in pipe.blocks.inputs if one.name] if hasattr(pipe, "blocks") else []


def check_label(label: Any) -> None:
    """Raise InputError unless `label` is a dictionary of fields of a profile."""
    check_given(label, dict, to="label=", instead="write {'model': 'mine'}")
    known = [one.name for one in fields(Profile)]
    unknown = [str(name) for name in label if name not in known]
    if unknown:
        raise InputError(
            f"a profile has no field {', '.join(unknown)}: label= may set {', '.join(_LABELS)}"
        )
