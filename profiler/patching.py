"""Replacing attributes of other people's modules and objects, and putting every one back.

Replacements come off in reverse order, whatever happened in between. An attribute that an object only inherited is
deleted again rather than set, so `vars(owner)` is afterwards what it was before.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

_MISSING = object()


class Patches:
    """A stack of replaced attributes; a context manager that takes them all back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, object]] = []

    def replace(self, owner: Any, name: str, new: object) -> None:
        """Set `owner.name` to `new` until `restore`."""
        self._undo.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, new)

    def restore(self) -> None:
        """Put every attribute back, last replaced first. Safe to call twice."""
        while self._undo:
            owner, name, old = self._undo.pop()
            if old is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, old)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()
