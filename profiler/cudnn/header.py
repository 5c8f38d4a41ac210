"""The enumerators of cuDNN's public headers, read where it is installed, so that no number is typed by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ENUM = re.compile(r"\benum\b[^{;]*\{(.*?)\}", re.DOTALL)
_ENUMERATOR = re.compile(r"(CUDNN_\w+)(?:\s+CUDNN_\w+)?\s*(?:=\s*([\w-]+))?")  # a macro may follow


def enumerators(text: str) -> dict[str, int]:
    """Return the value of each enumerator of a header.

    Raises:
        ValueError, KeyError: if it says something else than numbers and earlier names.

    Example:
        >>> enumerators("typedef enum { CUDNN_A = 3, CUDNN_B, /* last */ CUDNN_C = CUDNN_A } one;")
        {'CUDNN_A': 3, 'CUDNN_B': 4, 'CUDNN_C': 3}
    """
    found: dict[str, int] = {}
    for body in _ENUM.findall(_COMMENT.sub("", text)):
        value = -1
        for item in body.split(","):
            match = _ENUMERATOR.fullmatch(item.strip())
            if match is None:
                continue
            name, given = match.groups()
            if given is None:
                value += 1
            else:
                value = found[given] if given in found else int(given, 0)
            found[name] = value
    return found


def read_enumerators(include: Path) -> dict[str, int]:
    """Return those of the header of the graph API.

    Raises:
        OSError: if it is not there.
    """
    return enumerators((include / "cudnn_graph.h").read_text(encoding="utf-8", errors="replace"))
