"""Text from models, files and users, made safe to show: it can neither steer a terminal nor hide what it says.

A folder's name, an error or a string in a file may hold escape sequences, line breaks, marks that reverse the reading
direction, or bytes that are no text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def printable(text: str) -> str:
    r"""Return `text` with what does not print escaped as Python writes it (`\x1b`), line breaks kept."""
    return text if text.isprintable() else "".join(_shown(text, kept="\n"))


def one_line(text: str) -> str:
    r"""Return `text` with what does not print escaped, line breaks (`\n`) included."""
    return text if text.isprintable() else "".join(_shown(text, kept=""))


def _shown(text: str, kept: str) -> Iterator[str]:
    for character in text:
        shown = character.isprintable() or character in kept
        yield character if shown else repr(character)[1:-1]
