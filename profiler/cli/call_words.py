"""A call in one line of words: `height=512 width=512 cached-prompt weight=6`."""

from __future__ import annotations

import ast
import shlex
from typing import Any

from profiler.errors import InputError
from profiler.scenario import CallOptions

_NUMBERS = ("weight", "height", "width", "frames", "batch", "steps")
_PIPELINE = "pipeline"
_CACHED = "cached-prompt"


def call_options(text: str) -> CallOptions:
    """Return the call that `text` describes.

    The words are the options of the command without their dashes; any other KEY=VALUE is an argument of the pipeline's
    call.

    Raises:
        InputError: if a word is neither, or no whole number stands where one must.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--also {text!r} cannot be read: {error}") from error
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for word in words:
        if word == _CACHED:
            known["cached_prompt"] = True
            continue
        key, value = setting(word, "--also")
        if key == _PIPELINE:
            known["pipeline_class"] = str(value)
        elif key in _NUMBERS:
            known[key] = _number(key, value)
        else:
            extra[key] = value
    return CallOptions(**known, extra=extra)


def setting(text: str, option: str) -> tuple[str, Any]:
    """Return key and value of `key=value`; the value is a Python literal where it reads as one.

    Raises:
        InputError: naming the option, if it is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(
            f"{option} {text!r} is no setting: write KEY=VALUE, such as guidance_scale=5.0"
        )
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def _number(key: str, value: Any) -> int:
    if type(value) is not int:
        raise InputError(f"--also {key}={value} is no whole number")
    return value
