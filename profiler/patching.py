"""Replacing attributes of other people's modules and objects, and putting every one back.

Replacements come off in reverse order, whatever happened in between. An attribute that an object only inherited is
deleted again rather than set, so `vars(owner)` is afterwards what it was before. What is to be undone is written down
before it is done, and struck off after it was undone, so that putting back can be interrupted anywhere, and repeated.

Two may replace the same attribute, and need not leave in the reverse order: the one below takes what it found out from
under the one above. What torch has once for all threads is one thread's at a time (`take_turn`).
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
    """A stack of replaced attributes, and of what else is to be undone; a context manager that undoes it all."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    @property
    def standing(self) -> bool:
        """Whether anything is to be put back."""
        return bool(self._undo)

    def replace(self, owner: Any, name: str, new: object) -> None:
        """Set `owner.name` to `new` until `restore`."""
        replacement = _Replacement(owner, name)
        self._undo.append(replacement.put_back)
        _standing.append(replacement)
        setattr(owner, name, new)

    def afterwards(self, undo: Callable[[], object]) -> None:
        """Have `restore` call `undo` in its turn.

        Args:
            undo: Can be repeated where it was interrupted. To be handed in before what it undoes is done.
        """
        self._undo.append(undo)

    def restore(self) -> None:
        """Put everything back, last replaced first, with Ctrl-C held back meanwhile. Safe to call twice.

        Where undoing something raises an error, the rest is undone before that is raised.
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
    """One attribute that was replaced, and what was there before."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.old: object = vars(owner).get(name, _MISSING)

    def put_back(self) -> None:
        """Take this replacement away, from under a later one if there is one."""
        above = None
        for other in reversed(_standing):
            if other is self:
                break
            if other.owner is self.owner and other.name == self.name:
                above = other
        else:
            return  # it is away
        if above is not None:
            above.old = self.old
        elif self.old is not _MISSING:
            setattr(self.owner, self.name, self.old)
        elif self.name in vars(self.owner):
            delattr(self.owner, self.name)
        _standing.remove(self)


_standing: list[_Replacement] = []  # in their order; of all threads


class _Turn(NamedTuple):
    what: str
    thread: threading.Thread
    patches: Patches


_turns: list[_Turn] = []


def take_turn(what: str, patches: Patches) -> None:
    """Let this thread alone replace what all threads share, until `patches` are restored.

    What a thread left standing that has ended is put back.

    Args:
        what: What the thread is about to have, with its article, for the error of another.
        patches: What it replaces.

    Raises:
        InputError: if another thread is at it.
    """
    turn = _Turn(what, threading.current_thread(), patches)
    patches.afterwards(partial(_end, turn))
    _turns.append(turn)  # and look then: of two at once the first in the list has it
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
