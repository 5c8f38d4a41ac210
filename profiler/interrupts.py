"""Restoring changed state completely, whatever interrupts it.

A Ctrl-C meanwhile is deferred until everything is restored. Any other asynchronous exception, and a Ctrl-C in the
moment before it can be deferred, can arrive between two lines: the restoration then runs once more from the start, and
the exception propagates. So a function that is passed in must be repeatable after it was run in part.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from traceback import clear_frames
from types import FrameType
from typing import Any


def to_the_end(put_back: Callable[[], object]) -> None:
    """Call `put_back`; if it is interrupted, call it again before the interrupt propagates."""
    hold = _Hold()
    try:
        hold.begin()
        put_back()
        hold.end()
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold memory that is to be freed
        try:
            put_back()
        finally:
            hold.end()
            hold.hand_on()
        raise
    hold.hand_on()


class _Hold:
    """A deferral of Ctrl-C on the main thread, where Python handles it; on other threads it does nothing."""

    def __init__(self) -> None:
        self._handler: Any = None
        self._held: list[tuple[int, FrameType | None]] = []

    def begin(self) -> None:
        """Record Ctrl-C instead of handling it, from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        handler: Any = signal.getsignal(signal.SIGINT)
        hold = getattr(handler, "__self__", None)
        if isinstance(hold, _Hold) and not hold._lasts(sys._getframe()):
            handler = hold._handler  # a second interrupt skipped its `end`
        if callable(handler):
            self._handler = handler
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Stop recording Ctrl-C."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def hand_on(self) -> None:
        """Handle a recorded Ctrl-C as it would have been handled."""
        if self._held:
            self._handler(*self._held.pop())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._lasts(frame):
            self._held.append((number, frame))
        else:  # a second interrupt skipped its `end`
            signal.signal(signal.SIGINT, self._handler)
            self._handler(number, frame)

    def _lasts(self, frame: FrameType | None) -> bool:
        """Tell whether `frame` is inside the call for which this object defers Ctrl-C."""
        while frame is not None:
            if frame.f_code is to_the_end.__code__ and frame.f_locals.get("hold") is self:
                return True
            frame = frame.f_back
        return False
