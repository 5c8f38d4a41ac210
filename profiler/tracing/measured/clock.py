"""The seconds of a GPU stream: CUDA events, recorded when a moment is marked and read once the GPU has passed them.

Nothing waits for them during the run, and few exist at a time: those that the GPU has passed are read at
later marks and reused. They take no memory from the allocator.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

_READ_AT_ONCE = 4  # so that each mark takes about the same time, and more events are read than made
# Events report milliseconds as a 24-bit float: accurate to a microsecond below this.
_NEW_ANCHOR_MILLISECONDS = 8192.0


class GpuClock:
    """Marks moments on the current stream.

    A mark is the moment at which the stream reaches it: the host's present, if the stream has nothing left to do.

    Args:
        host_seconds: the host's clock. It is used instead if the GPU failed before it reached a mark.
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
        self.mark()

    def mark(self) -> int:
        """Mark this moment, and return the number of the mark."""
        number = len(self._seconds)
        self._seconds.append(self._host_seconds() - self._host_began)
        if not self._failed:
            self._guarded(self._record, number)
        return number

    def settle(self) -> None:
        """Wait for the last mark, and read all marks."""
        if self._unread and not self._failed:
            self._guarded(self._unread[-1][1].synchronize)
        if not self._failed:
            self._guarded(self._read, len(self._unread))

    def seconds_at(self, number: int) -> float:
        """Return the seconds from the start to a mark; the host's seconds for one that is not read yet."""
        return self._seconds[number]

    def _record(self, number: int) -> None:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        self._unread.append((number, event))
        self._read(_READ_AT_ONCE)

    def _read(self, most: int) -> None:
        unread = self._unread
        for _ in range(most):
            if not unread or not unread[0][1].query():
                return
            number, event = unread.popleft()
            if self._anchor is None:
                self._anchor, self._seconds[number] = event, 0.0
                continue
            milliseconds = self._anchor.elapsed_time(event)
            self._seconds[number] = self._anchor_seconds + milliseconds / 1000
            if milliseconds > _NEW_ANCHOR_MILLISECONDS:
                self._anchor, event = event, self._anchor
                self._anchor_seconds = self._seconds[number]
            self._spare.append(event)

    def _guarded(self, ask: Callable[..., Any], *args: Any) -> None:
        """Call an event function; stop once the GPU has failed, an error that the run itself will report."""
        try:
            ask(*args)
        except RuntimeError:
            self._failed = True
