"""The front of peak against cost, walked with one exact search for each point."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Protocol

from profiler.planning.searching.records import Found, Front

if TYPE_CHECKING:
    from profiler.planning.searching.records import Outcome


_Range = tuple[int, int, int]  # how wide, negative; lowest and highest peak


class Best(Protocol):
    """Searches for the one best choice under a limit."""

    def __call__(self, limit: int | None, *, peak_first: bool = False) -> Outcome:
        """Return the outcome of one search."""


class _LateError(Exception):
    """The time is up."""


def walk(best: Best, limit: int | None, most: int) -> Front:
    """Return up to `most` points of the front: both ends, then whatever halves the widest range of peaks.

    With the peak limited to any value, the least cost and the least peak for that cost are a point of the front.
    """
    walker = _Walker(best)
    try:
        ranges = walker.ends(limit)
        while ranges and len(walker.points) < most:
            _, lowest, highest = heapq.heappop(ranges)
            for left in walker.halve(lowest, highest):
                heapq.heappush(ranges, left)
    except _LateError:
        return Front(points=walker.front(), whole=False, complete=False)
    return Front(points=walker.front(), whole=not ranges, complete=True)


class _Walker:
    def __init__(self, best: Best) -> None:
        self._best = best
        self.points: dict[int, Found] = {}  # by peak

    def front(self) -> tuple[Found, ...]:
        """Return the points found, lowest peak first."""
        return tuple(self.points[peak] for peak in sorted(self.points))

    def ends(self, limit: int | None) -> list[_Range]:
        """Find the two ends; return what is between them."""
        if not self._look(limit, peak_first=True):
            return []
        (low,) = self.points
        return _range(low + 1, self._peak(limit) - 1)

    def halve(self, lowest: int, highest: int) -> list[_Range]:
        """Find one more point of a range, if there is one; return what is left of it."""
        middle = (lowest + highest) // 2
        peak = self._peak(middle)
        if peak >= lowest:
            return [*_range(lowest, peak - 1), *_range(middle + 1, highest)]
        if middle == highest:
            return []
        return _range(middle + 1, self._peak(highest) - 1)

    def _peak(self, limit: int | None) -> int:
        """Return the peak of the point under `limit`; there is one."""
        (found,) = self._look(limit)
        return found.peak

    def _look(self, limit: int | None, *, peak_first: bool = False) -> tuple[Found, ...]:
        outcome = self._best(limit, peak_first=peak_first)
        if not outcome.complete:
            raise _LateError
        self.points.update((found.peak, found) for found in outcome.found)
        return outcome.found


def _range(lowest: int, highest: int) -> list[_Range]:
    """Return the peaks at which more points may be, the widest range first; nothing where there are none."""
    return [(lowest - highest, lowest, highest)] if lowest <= highest else []
