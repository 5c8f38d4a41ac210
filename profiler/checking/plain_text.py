"""Text from models, files and users, made safe to display: it can neither control a terminal nor hide its content.

A folder's name, an error or a string in a file may contain escape sequences, line breaks, marks that reverse the
reading direction, or bytes that are not text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def printable(text: str) -> str:
    r"""Return `text` with unprintable characters escaped as Python writes them (`\x1b`), line breaks kept."""
    return text if text.isprintable() else "".join(_shown(text, kept="\n"))


def one_line(text: str) -> str:
    r"""Return `text` with unprintable characters escaped, line breaks (`\n`) included."""
    return text if text.isprintable() else "".join(_shown(text, kept=""))


def _shown(text: str, kept: str) -> Iterator[str]:
    for character in text:
        shown = character.isprintable() or character in kept
        yield character if shown else repr(character)[1:-1]
