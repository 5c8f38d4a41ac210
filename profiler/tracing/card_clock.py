"""Seconds of a card's stream: CUDA events, recorded where a moment is marked and read when the card has got there.

Nothing waits for them while the run goes on, and few are there at a time: those that the card has passed are read at
later marks, and used again. They take no memory of the allocator's.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_READ_AT_ONCE = 4  # so that a mark takes about as long as any other, and more are read than made
# Events give milliseconds as a float of 24 bits: to a microsecond below this.
_NEW_ANCHOR_MILLISECONDS = 8192.0


class CardClock:
    """Marks moments on the current stream.

    A mark is the moment at which the stream gets to it: the host's, where the stream has nothing left to do.

    Args:
        host_seconds: the host's clock. It stands in where the card failed before it got to a mark.
    """

    def __init__(self, host_seconds: Callable[[], float]) -> None:
        self._host_seconds = host_seconds
        self._host_began = host_seconds()
        self._seconds = array("d")  # of each mark
        self._unread: deque[tuple[int, Any]] = deque()
        self._spare: list[Any] = []
        self._failed = False
        self._anchor: Any = None
        self._anchor_seconds = 0.0
        self._unread.append((self._next(), self._recorded()))

    def mark(self) -> int:
        """Mark this moment, and return its number."""
        number = self._next()
        if not self._failed:
            self._unread.append((number, self._recorded()))
            self._read(_READ_AT_ONCE)
        return number

    def settle(self) -> None:
        """Wait for the last mark, and read all."""
        if self._unread and not self._failed:
            self._guarded(self._unread[-1][1].synchronize)
        self._read(len(self._unread))

    def seconds_at(self, number: int) -> float:
        """Return the seconds from the start to a mark; the host's for one that is not read yet."""
        return self._seconds[number]

    def _next(self) -> int:
        self._seconds.append(self._host_seconds() - self._host_began)
        return len(self._seconds) - 1

    def _recorded(self) -> Any:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        self._guarded(event.record)
        return event

    def _read(self, most: int) -> None:
        for _ in range(most):
            if self._failed or not self._unread or not self._guarded(self._unread[0][1].query):
                return
            number, event = self._unread.popleft()
            if self._anchor is None:
                self._anchor, self._seconds[number] = event, 0.0
                continue
            milliseconds = self._guarded(partial(self._anchor.elapsed_time, event))
            if milliseconds is None:
                return
            self._seconds[number] = self._anchor_seconds + milliseconds / 1000
            if milliseconds > _NEW_ANCHOR_MILLISECONDS:
                self._anchor, event = event, self._anchor
                self._anchor_seconds = self._seconds[number]
            self._spare.append(event)

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        """Return what an event says; None once the card has failed, which the run itself will tell."""
        try:
            return ask()
        except RuntimeError:
            self._failed = True
            return None
