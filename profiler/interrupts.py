"""Putting back what was changed, to the end, whatever interrupts it.

A Ctrl-C meanwhile waits until everything is back. Any other exception that comes from outside, and a Ctrl-C in the
moment before it can be held, gets in between two lines: what was to be put back is then put back once more, from the
start, and the exception goes on its way. So whatever is handed in must be able to be done again after it was done in
part.
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
    """Call `put_back`; where that is interrupted, call it again before the interrupt is let through."""
    hold = _Hold()
    try:
        hold.begin()
        put_back()
        hold.end()
    except BaseException as error:
        clear_frames(error.__traceback__)  # which hold what is to be freed
        try:
            put_back()
        finally:
            hold.end()
            hold.hand_on()
        raise
    hold.hand_on()


class _Hold:
    """Holds Ctrl-C on the main thread, where Python handles it; there is nothing to hold on others."""

    def __init__(self) -> None:
        self._handler: Any = None
        self._held: list[tuple[int, FrameType | None]] = []

    def begin(self) -> None:
        """Note Ctrl-C from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        handler: Any = signal.getsignal(signal.SIGINT)
        hold = getattr(handler, "__self__", None)
        if isinstance(hold, _Hold) and not hold._lasts(sys._getframe()):
            handler = hold._handler  # a second interrupt passed its end over
        if callable(handler):
            self._handler = handler
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Note it no more."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def hand_on(self) -> None:
        """Handle what was noted as it would have been."""
        if self._held:
            self._handler(*self._held.pop())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._lasts(frame):
            self._held.append((number, frame))
        else:  # a second interrupt passed its end over
            signal.signal(signal.SIGINT, self._handler)
            self._handler(number, frame)

    def _lasts(self, frame: FrameType | None) -> bool:
        """Tell whether `frame` is inside what this holds Ctrl-C for."""
        while frame is not None:
            if frame.f_code is to_the_end.__code__ and frame.f_locals.get("hold") is self:
                return True
            frame = frame.f_back
        return False
