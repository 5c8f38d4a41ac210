"""Time as an engine: a clock for the host, one per stream, a copy engine per direction. It knows nothing of tensors.

The host puts work on a stream, and the work runs when both are ready. A copy also waits for the engine of its
direction, which runs one copy after another in the order in which the host issued them, from whatever stream; kernels
do not use it, so a copy on a stream of its own runs beside them. `join` makes the host wait. All times are seconds from
the start.

Every time has an *ideal* counterpart: the same work with copies that take no time. The difference is the exposed
transfer time, that is, what an infinitely fast link would save.

Limits: kernels of different streams run side by side as if each had the GPU for itself, and a copy that waits for its
stream delays a later one of another stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

H2D, D2H = 0, 1
"""The copy engines: from the host to the GPU, and back."""


class Mark(NamedTuple):
    """A point in time, and the time that it would have been with copies that take no time."""

    seconds: float
    ideal_seconds: float


class Clock:
    """The times of the host, of each stream and of each copy engine.

    Attributes:
        host: the host's time.
        current: the stream that new work goes to; 0 is the default one.
        link_seconds: for each copy engine, how long it was busy so far.
    """

    def __init__(self) -> None:
        self.host = 0.0
        self.current = 0
        self.link_seconds = [0.0, 0.0]
        self._host_bound = 0.0  # up to `_waited`
        self._waited = 0.0  # when the host last waited
        self._idle_until = 0.0  # the last launch that found its stream idle
        self._streams: list[float] = [0.0]
        self._engines = [0.0, 0.0]
        self._ideal_host = 0.0
        self._ideal_streams: list[float] = [0.0]

    def add_stream(self) -> int:
        """Create a stream and return its number."""
        self._streams.append(0.0)
        self._ideal_streams.append(0.0)
        return len(self._streams) - 1

    def launch(self, overhead_seconds: float, seconds: float) -> None:
        """Spend `overhead_seconds` of the host on putting work of `seconds` on the current stream."""
        current = self.current
        host = self.host = self.host + overhead_seconds
        streams = self._streams
        ready = streams[current]
        if host > ready:
            ready = self._idle_until = host
        streams[current] = ready + seconds
        host = self._ideal_host = self._ideal_host + overhead_seconds
        streams = self._ideal_streams
        ready = streams[current]
        streams[current] = (max(host, ready)) + seconds

    def copy(
        self, engine: int, overhead_seconds: float, seconds: float, *, blocks: bool = False
    ) -> None:
        """Put a copy of `seconds` on the current stream and on `engine`; with `blocks` the host waits for its end."""
        self.spend(overhead_seconds)
        self._transfer(engine, seconds)
        if blocks:
            self.join(self.current)

    def _transfer(self, engine: int, seconds: float) -> None:
        current = self.current
        begin = max(self._streams[current], self.host, self._engines[engine])
        self._streams[current] = self._engines[engine] = begin + seconds
        self._ideal_streams[current] = max(self._ideal_streams[current], self._ideal_host)
        self.link_seconds[engine] += seconds

    def spend(self, seconds: float) -> None:
        """Advance the host by `seconds` of work."""
        self.host += seconds
        self._ideal_host += seconds

    def call_driver(self, seconds: float) -> None:
        """Advance the host by a call to the driver, for memory; a replay repeats it with the request that needs it."""
        self.host += seconds
        self._ideal_host += seconds

    def launch_all(self, overhead_seconds: float, work_seconds: Iterable[float]) -> None:
        """Launch the given work in order; the result is bit-identical to calling `launch` for each."""
        current = self.current
        host, ready = self.host, self._streams[current]
        ideal_host, ideal_ready = self._ideal_host, self._ideal_streams[current]
        idle_until = self._idle_until
        for seconds in work_seconds:
            host += overhead_seconds
            if host > ready:
                ready = idle_until = host
            ready += seconds
            ideal_host += overhead_seconds
            ideal_ready = (max(ideal_host, ideal_ready)) + seconds
        self._idle_until = idle_until
        self.host, self._streams[current] = host, ready
        self._ideal_host, self._ideal_streams[current] = ideal_host, ideal_ready

    def at(self, stream: int) -> float:
        """Return the time at which the work on `stream` ends."""
        return max(self._streams[stream], self.host)

    def mark(self, stream: int) -> Mark:
        """Return the point at which the work that is now on `stream` ends."""
        return Mark(self.at(stream), max(self._ideal_streams[stream], self._ideal_host))

    def ideally(self) -> tuple[float, float]:
        """Return the times of the host and the default stream with copies that take no time."""
        return self._ideal_host, max(self._ideal_streams[0], self._ideal_host)

    def passed(self, until: Mark) -> bool:
        """Tell whether the host has reached `until`."""
        return self.host >= until.seconds

    def wait(self, stream: int, until: Mark) -> None:
        """Make `stream` start no further work before `until`."""
        self._streams[stream] = max(self._streams[stream], until.seconds)
        self._ideal_streams[stream] = max(self._ideal_streams[stream], until.ideal_seconds)

    def reach(self, until: Mark) -> None:
        """Make the host wait for `until`."""
        if until.seconds > self.host:
            self._host_bound = self.host_bound_seconds
            self.host = self._waited = until.seconds
        self._ideal_host = max(self._ideal_host, until.ideal_seconds)

    def join(self, stream: int) -> None:
        """Make the host wait for `stream`."""
        self.reach(self.mark(stream))

    def join_all(self) -> None:
        """Make the host wait for every stream."""
        self.reach(self._all_done())

    def _all_done(self) -> Mark:
        return Mark(max(self._streams), max(self._ideal_streams))

    @property
    def host_bound_seconds(self) -> float:
        """For how long so far the host's own work decided when things were done.

        What runs between two waits ends when the last kernel that had to wait for its launch, and those behind it, are
        done: up to that launch the host decides, from then on the kernels.
        """
        return self._host_bound + max(self._idle_until - self._waited, 0.0)

    def exposed_seconds(self, stream: int = 0) -> float:
        """Return how much earlier `stream` would be done with copies that take no time."""
        done, ideally = self.mark(stream)
        return done - ideally
