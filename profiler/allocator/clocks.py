"""One clock with others beside it: the same work in the same order, each in times of its own.

Whatever is done to a `SharedClock` is done to the clocks beside it. Where a time differs among them, it is given as
`Seconds`; any other number is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from profiler.allocator.clock import Clock, Mark


class Seconds(float):
    """A time, and what the same takes on each of the clocks beside.

    Two are equal if all their times are, so that replays tell work apart that only takes equally long here.
    """

    __slots__ = ("beside",)

    beside: tuple[float, ...]

    def __new__(cls, seconds: float, beside: Iterable[float]) -> Self:
        self = super().__new__(cls, seconds)
        self.beside = tuple(beside)
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Seconds)
            and float(self) == float(other)
            and self.beside == other.beside
        )

    __hash__ = float.__hash__


class SharedMark(Mark):
    """A point in time on a shared clock, and the same point on each of the clocks beside."""

    beside: tuple[Mark, ...]


class SharedClock(Clock):
    """A clock with others beside it.

    Args:
        count: how many others there are.

    Attributes:
        beside: the others.
        decided: whether something was decided by whether a time has passed, which may be otherwise on the others.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.beside = tuple(Clock() for _ in range(count))
        self.decided = False
        self._translated: dict[int, tuple[object, list[tuple[float, ...]]]] = {}

    def _others(self) -> Iterator[Clock]:
        current = self.current
        for clock in self.beside:
            clock.current = current
            yield clock

    def add_stream(self) -> int:
        """Create a stream on every clock."""
        for clock in self.beside:
            clock.add_stream()
        return super().add_stream()

    def launch(self, overhead_seconds: float, seconds: float) -> None:
        """Launch on every clock."""
        super().launch(overhead_seconds, float(seconds))
        for clock, own in zip(self._others(), self._times(seconds), strict=True):
            clock.launch(overhead_seconds, own)

    def launch_all(self, overhead_seconds: float, work_seconds: Iterable[float]) -> None:
        """Launch on every clock."""
        work = tuple(work_seconds)
        super().launch_all(overhead_seconds, work)
        if (
            id(work) not in self._translated
        ):  # a piece of a replay launches the same tuple again and again
            own = [self._times(seconds) for seconds in work]
            columns = [tuple(row[index] for row in own) for index in range(len(self.beside))]
            self._translated[id(work)] = work, columns
        _, columns = self._translated[id(work)]
        for clock, own_seconds in zip(self._others(), columns, strict=True):
            clock.launch_all(overhead_seconds, own_seconds)

    def spend(self, seconds: float) -> None:
        """Advance every host."""
        super().spend(float(seconds))
        for clock, own in zip(self._others(), self._times(seconds), strict=True):
            clock.spend(own)

    def call_driver(self, seconds: float) -> None:
        """Advance every host."""
        super().call_driver(seconds)
        for clock in self._others():
            clock.call_driver(seconds)

    def _transfer(self, engine: int, seconds: float) -> None:
        super()._transfer(engine, float(seconds))
        for clock, own in zip(self._others(), self._times(seconds), strict=True):
            clock._transfer(engine, own)

    def mark(self, stream: int) -> Mark:
        """Return the point on every clock."""
        return _shared(super().mark(stream), (clock.mark(stream) for clock in self.beside))

    def _all_done(self) -> Mark:
        return _shared(super()._all_done(), (clock._all_done() for clock in self.beside))

    def passed(self, until: Mark) -> bool:
        """Tell whether this host has reached `until`; the others may not have."""
        self.decided = True
        return super().passed(until)

    def wait(self, stream: int, until: Mark) -> None:
        """Make the stream of every clock wait."""
        super().wait(stream, until)
        for clock, own in zip(self._others(), self._marks(until), strict=True):
            clock.wait(stream, own)

    def reach(self, until: Mark) -> None:
        """Make every host wait."""
        super().reach(until)
        for clock, own in zip(self._others(), self._marks(until), strict=True):
            clock.reach(own)

    def _times(self, seconds: float) -> tuple[float, ...]:
        return seconds.beside if isinstance(seconds, Seconds) else (seconds,) * len(self.beside)

    def _marks(self, until: Mark) -> tuple[Mark, ...]:
        return until.beside if isinstance(until, SharedMark) else (until,) * len(self.beside)


def _shared(own: Mark, beside: Iterable[Mark]) -> SharedMark:
    mark = SharedMark(*own)
    mark.beside = tuple(beside)
    return mark
