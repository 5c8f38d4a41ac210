"""Parsing of a call written as one line of words: `height=512 width=512 cached-prompt weight=6`."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from profiler.errors import InputError
from profiler.sizing.scenario import CallOptions

_NUMBERS = ("weight", "height", "width", "frames", "batch", "steps")
_COUNTS = {
    "pictures": "pictures",
    "prompt-words": "prompt_words",
    "max-sequence-length": "max_sequence_length",
}
_FLAGS = {
    "cached-prompt": {"cached_prompt": True},
    "negative-prompt": {"negative_prompt": True},
    "no-guidance": {"guidance": False},
}
_PICTURE_SIZE = "picture-size"
_DIMENSIONS = re.compile(r"(\d+)x(\d+)")
_INHERITED = ("height", "width", "frames", "batch", "steps")
_PIPELINE = "pipeline"
_TOKEN = re.compile(r"""\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|.""", re.DOTALL)
_QUOTES = ("'", '"')
_OPENING = ("(", "[", "{")
_CLOSING = (")", "]", "}")
_JSON_WORDS = {"true": True, "false": False, "null": None}


def call_options(text: str, main: CallOptions | None = None) -> CallOptions:
    """Return the call that `text` describes.

    The words are the options of the command without their dashes; any other KEY=VALUE is an argument of the pipeline's
    call. Quotes and brackets hold words together. Size, steps, batch and other arguments that are not given are those
    of the main call. Weight, pipeline class and cached prompt are not taken over from it.

    Args:
        text: The words.
        main: The main call; None for one without options.

    Raises:
        InputError: if a word is neither, or a value that must be a whole number is not.
    """
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for word in _words(text):
        if dashed := _dashed(word):
            known |= dashed
            continue
        key, value = setting(word, "--also")
        if isinstance(value, str) and word.endswith(f"={value}"):  # not read as anything but text
            value = _unquoted(value)
        if key == _PIPELINE:
            known["pipeline_class"] = str(value)
        elif key in _NUMBERS:
            known[key] = _number(key, value)
        else:
            extra[key] = value
    main = main or CallOptions()
    said = {name: value for name in _INHERITED if (value := getattr(main, name)) is not None}
    return CallOptions(
        **{**said, **known},
        extra={**main.extra, **extra},
        inherited=tuple({**said, **main.extra}.keys() - {**known, **extra}.keys()),
    )


def _dashed(word: str) -> dict[str, Any]:
    """Return what a word says that is written as an option of several words; nothing if it is none."""
    if word in _FLAGS:
        return _FLAGS[word]
    name, _, value = word.partition("=")
    if name in _COUNTS:
        return {_COUNTS[name]: _number(name, value_of(value))}
    return {"picture_size": picture_size(value)} if name == _PICTURE_SIZE else {}


def _words(text: str) -> list[str]:
    """Split at white space outside of quotes and brackets, as a shell with lists and objects would."""
    words = [""]
    depth = 0
    for token in _TOKEN.findall(text):
        if token in _QUOTES:
            raise InputError(f"--also {text!r} cannot be read: a quotation mark has no partner")
        depth = max(depth + (token in _OPENING) - (token in _CLOSING), 0)
        if token.isspace() and not depth:
            words.append("")
        else:
            words[-1] += token
    if depth:
        raise InputError(f"--also {text!r} cannot be read: a bracket is not closed")
    return [_unquoted(word) if word[0] in _QUOTES else word for word in words if word]


def _unquoted(text: str) -> str:
    """Return the text without the quotation marks and backslashes that held it together."""
    tokens = _TOKEN.findall(text)
    return "".join(
        token if len(token) == 1 else token[1:-1] if token[0] in _QUOTES else token[1:]
        for token in tokens
    )


def setting(text: str, option: str) -> tuple[str, Any]:
    """Return key and value of `key=value`, with the value as `value_of` reads it.

    Raises:
        InputError: if `text` is not of that form; the message names the option.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(
            f"{option} {text!r} is no setting: write KEY=VALUE, such as guidance_scale=5.0"
        )
    return key, value_of(value)


def value_of(text: str) -> Any:
    """Return the value of typed text; text that cannot be read as anything else is a string.

    Both JSON and Python syntax are accepted: `false` as `False`, `null` as `None`, numbers, `"quoted"` strings, lists,
    `(0, 0)` and objects, at any depth.

    Example:
        >>> value_of('{"scale": 0.5, "dynamic": false}'), value_of("a cat")
        ({'scale': 0.5, 'dynamic': False}, 'a cat')
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about text that it can read in part
            tree = ast.parse(text.strip(), mode="eval")
        return ast.literal_eval(_PlainValues().visit(tree))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text


class _PlainValues(ast.NodeTransformer):
    """A transformer that turns JSON's words into Python's, and refuses values that no argument of a call has."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        if node.id not in _JSON_WORDS:
            raise ValueError(node.id)
        return ast.Constant(_JSON_WORDS[node.id])

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not isinstance(node.value, bool | int | float | str | None):
            raise TypeError(type(node.value).__name__)  # `...`, b"bytes" and complex numbers
        return node


def picture_size(text: str) -> tuple[int, int]:
    """Return the width and height written as `1024x768`.

    Raises:
        InputError: if `text` is not of that form.
    """
    found = _DIMENSIONS.fullmatch(text)
    if found is None or "0" in found.groups():
        raise InputError(f"picture-size {text!r} is no size: write WIDTHxHEIGHT, such as 1024x768")
    return int(found[1]), int(found[2])


def _number(key: str, value: Any) -> int:
    if type(value) is not int:
        raise InputError(f"--also {key}={value} is no whole number")
    return value
