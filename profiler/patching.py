"""Replacing attributes of third-party modules and objects, and restoring every one.

Replacements are undone in reverse order, whatever happened in between. An attribute that an object only inherited is
deleted again rather than set, so `vars(owner)` is afterwards what it was before. Each undo is recorded before its
change is made, and removed after it has run, so the restoration can be interrupted anywhere, and repeated.

Two owners of patches may replace the same attribute, and need not restore it in reverse order: the earlier one removes
its replacement from below the later one. State that torch shares between all threads can be replaced by one thread at a
time (`take_turn`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from profiler.errors import InputError
from profiler.interrupts import to_the_end

_MISSING = object()


class Patches:
    """A stack of replaced attributes and other changes to undo; a context manager that undoes them all."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    @property
    def standing(self) -> bool:
        """True if anything is left to restore."""
        return bool(self._undo)

    def replace(self, owner: Any, name: str, new: object) -> None:
        """Set `owner.name` to `new` until `restore`."""
        replacement = _Replacement(owner, name)
        self._undo.append(replacement.put_back)
        _standing.append(replacement)
        setattr(owner, name, new)

    def afterwards(self, undo: Callable[[], object]) -> None:
        """Let `restore` call `undo` in its turn.

        Args:
            undo: A function that can be repeated if it is interrupted. It must be passed before its change is made.
        """
        self._undo.append(undo)

    def restore(self) -> None:
        """Restore everything, last replaced first, with Ctrl-C deferred meanwhile. Safe to call twice.

        If undoing something raises an error, the rest is undone before the error is raised.
        """
        if self._undo:
            to_the_end(self._put_back)

    def _put_back(self) -> None:
        failure: Exception | None = None
        while self._undo:
            try:
                self._undo[-1]()
            except Exception as error:  # noqa: BLE001  # raised below
                failure = failure or error
            self._undo.pop()
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()


class _Replacement:
    """One replaced attribute, and its old value."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.old: object = vars(owner).get(name, _MISSING)

    def put_back(self) -> None:
        """Undo this replacement, from below a later one if there is one."""
        above = None
        for other in reversed(_standing):
            if other is self:
                break
            if other.owner is self.owner and other.name == self.name:
                above = other
        else:
            return  # it is undone already
        if above is not None:
            above.old = self.old
        elif self.old is not _MISSING:
            setattr(self.owner, self.name, self.old)
        elif self.name in vars(self.owner):
            delattr(self.owner, self.name)
        _standing.remove(self)


_standing: list[_Replacement] = []  # of all threads, in order


class _Turn(NamedTuple):
    what: str
    thread: threading.Thread
    patches: Patches


_turns: list[_Turn] = []


def take_turn(what: str, patches: Patches) -> None:
    """Reserve state that all threads share for this thread, until `patches` are restored.

    Replacements left by a thread that has ended are undone.

    Args:
        what: Name of the thing the thread is about to activate, with its article, for another thread's error.
        patches: The replacements it makes.

    Raises:
        InputError: if another thread has reserved the state.
    """
    turn = _Turn(what, threading.current_thread(), patches)
    patches.afterwards(partial(_end, turn))
    _turns.append(turn)  # before checking: of two threads at once, the first in the list wins
    for other in _turns.copy():
        if other is turn:
            return
        if other.thread is turn.thread:
            continue
        if other.thread.is_alive():
            raise InputError(
                f"{other.what} is already active in thread {other.thread.name!r}, and what it replaces in torch is "
                f"there once for all threads: leave it before entering {what} in thread {turn.thread.name!r}, or use "
                "a process for each"
            )
        other.patches.restore()


def _end(turn: _Turn) -> None:
    if turn in _turns:
        _turns.remove(turn)
