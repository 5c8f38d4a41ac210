"""Checks of words that become code: names, quoted text, and the lines of advice that this package writes.

Plans and profiles are files that people send each other. Their contents are printed as lines to paste, so nothing in
them may be more than the name or the text that it represents.
"""

from __future__ import annotations

import ast
import keyword
import re
import shlex
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

_NAMES = frozenset({"pipe", "profile", "profiler", "torch"})
_CALLS = frozenset(
    {
        *("to", "device", "apply", "plan_offload", "profile_pipeline", "maybe_free_model_hooks"),
        *("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"),
        *("enable_tiling", "enable_slicing", "enable_layerwise_casting", "fuse_qkv_projections"),
        *("set_attention_slice", "set_attention_backend"),
    }
)
_SET = frozenset({"model_cpu_offload_seq", "_exclude_from_cpu_offload"})
_NODES = (
    *(ast.Module, ast.Expr, ast.Assign, ast.Call, ast.keyword, ast.Attribute, ast.Name),
    *(ast.Constant, ast.List, ast.Tuple, ast.Load, ast.Store),
)


def quoted(text: str) -> str:
    """Return `text` as a Python literal, in double quotes if it contains neither kind of quote."""
    plain = repr(text)
    return plain if '"' in text or "'" in text else f'"{plain[1:-1]}"'


def is_name(text: str) -> bool:
    """Tell whether `text` can follow a dot in Python, and is the very name that Python then reads."""
    return (
        text.isidentifier()
        and not keyword.iskeyword(text)
        and unicodedata.is_normalized("NFKC", text)
    )


def check_names(what: str, names: Iterable[str], *, empty: bool = False) -> None:
    """Raise ValueError for the first text that is not a name.

    Args:
        what: The kind of thing that is named: "a component".
        names: The texts to check.
        empty: Whether "" is allowed, for none.
    """
    for name in names:
        if not (is_name(name) or (empty and not name)):
            raise ValueError(f"{name!r} is no name of {what}")


def check_words(what: str, words: Iterable[str]) -> None:
    """Raise ValueError for the first text that is not one plain word, such as `bnb-nf4`."""
    for word in words:
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} is no {what}")


def check_known(what: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first word that is not one of those known."""
    choices = tuple(known)
    for word in words:
        if word not in choices:
            raise ValueError(f"{word!r} is no {what}: it is one of {', '.join(choices)}")


def is_advice(line: str) -> bool:
    """Tell whether this package could have written `line`: a line of a plan, or the command that prints one."""
    if not line.isprintable():
        return False
    try:
        if line.startswith("vram "):
            return shlex.join(shlex.split(line)) == line
        return all(map(_is_of_a_plan, ast.walk(ast.parse(line))))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _is_of_a_plan(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name):
            return called.id == "pipe"
        return isinstance(called, ast.Attribute) and called.attr in _CALLS
    if isinstance(node, ast.Assign):
        return all(isinstance(one, ast.Attribute) and _is_set(one.attr) for one in node.targets)
    if isinstance(node, ast.Name):
        return node.id in _NAMES
    return isinstance(node, _NODES)


def _is_set(attribute: str) -> bool:
    return attribute in _SET or attribute.startswith("tile_")
