"""A terminal that a test can read: the command prints to it as it does to a user's."""

from __future__ import annotations

import os
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def terminal(columns: int, *, stream: str = "stdout") -> Iterator[list[str]]:
    """Let a standard stream be a terminal of so many columns; what was printed is then the list's only item."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)  # which leaves line breaks as they are
    chunks: list[bytes] = []
    printed: list[str] = []

    def read() -> None:
        while not (chunks and chunks[-1].endswith(b"\0")):
            chunks.append(os.read(ours, 1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(theirs, "w", encoding="utf-8") as screen:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(sys, stream, screen)
        try:
            yield printed
        finally:
            screen.write("\0")
            screen.flush()
            reader.join()
    os.close(ours)
    printed.append(b"".join(chunks).decode().removesuffix("\0"))
