"""Time as an engine: one host clock and one clock a stream. It has never heard of tensors.

Work is put on a stream by the host and runs when both are ready; `join` makes the host wait. All times are seconds from
the start.
"""

from __future__ import annotations


class Clock:
    """The host's time and each stream's.

    Attributes:
        host: when the host is.
        current: the stream that new work goes to; 0 is the default one.
    """

    def __init__(self) -> None:
        self.host = 0.0
        self.current = 0
        self._streams: list[float] = [0.0]

    def add_stream(self) -> int:
        """Make a stream and return its number."""
        self._streams.append(0.0)
        return len(self._streams) - 1

    def run(self, seconds: float) -> None:
        """Put work of this length on the current stream."""
        streams = self._streams
        ready = streams[self.current]
        streams[self.current] = (ready if ready > self.host else self.host) + seconds

    def launch(self, overhead_seconds: float, seconds: float) -> None:
        """Spend `overhead_seconds` of the host on putting work on the current stream."""
        host = self.host = self.host + overhead_seconds
        streams = self._streams
        ready = streams[self.current]
        streams[self.current] = (ready if ready > host else host) + seconds

    def at(self, stream: int) -> float:
        """Return when the work on `stream` ends."""
        return max(self._streams[stream], self.host)

    def wait(self, stream: int, until: float) -> None:
        """Let `stream` begin no further work before `until`."""
        self._streams[stream] = max(self._streams[stream], until)

    def join(self, stream: int) -> None:
        """Let the host wait for `stream`."""
        self.host = self.at(stream)

    def join_all(self) -> None:
        """Let the host wait for every stream."""
        self.host = max(self.host, *self._streams)
