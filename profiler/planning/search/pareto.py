"""The front of peak against cost, walked with one exact search for each point."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple, Protocol

from profiler.planning.search.records import Found, Front

if TYPE_CHECKING:
    from profiler.planning.search.records import Outcome


class Best(Protocol):
    """Searches for the one best choice under a limit of its peak and one of its cost."""

    def __call__(
        self, limit: int | None, cost_limit: int | None = None, *, peak_first: bool = False
    ) -> Outcome:
        """Return the outcome of one search."""


class _Range(NamedTuple):
    """Peaks at which more points may be; sorts the widest range first."""

    width: int  # negative
    lowest: int
    highest: int
    cost_limit: int  # below that of the point with the next lower peak


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
            for left in walker.halve(heapq.heappop(ranges)):
                heapq.heappush(ranges, left)
    except _LateError:
        return Front(points=walker.front(), whole=False, complete=False)
    return Front(points=walker.front(), whole=not ranges, complete=True)


class _Walker:
    def __init__(self, best: Best) -> None:
        self._best = best
        self.points: list[Found] = []

    def front(self) -> tuple[Found, ...]:
        """Return the points found, lowest peak first."""
        return tuple(sorted(self.points, key=lambda found: found.peak))

    def ends(self, limit: int | None) -> list[_Range]:
        """Find the two ends; return what is between them."""
        low = self._found_within(limit, None, peak_first=True)
        if low is None:
            return []
        high = self._found_within(limit, low.cost - 1)
        return [] if high is None else _range(low.peak + 1, high.peak - 1, low.cost - 1)

    def halve(self, around: _Range) -> list[_Range]:
        """Find one more point of a range, if there is one; return what is left of it."""
        _, lowest, highest, cost_limit = around
        middle = (lowest + highest) // 2
        found = self._found_within(middle, cost_limit)
        if found is not None:
            above = _range(middle + 1, highest, found.cost - 1)
            return [*_range(lowest, found.peak - 1, cost_limit), *above]
        if middle == highest:
            return []
        found = self._found_within(highest, cost_limit)
        return [] if found is None else _range(middle + 1, found.peak - 1, cost_limit)

    def _found_within(
        self, limit: int | None, cost_limit: int | None, *, peak_first: bool = False
    ) -> Found | None:
        outcome = self._best(limit, cost_limit, peak_first=peak_first)
        if not outcome.complete:
            raise _LateError
        self.points += outcome.found
        return outcome.found[0] if outcome.found else None


def _range(lowest: int, highest: int, cost_limit: int) -> list[_Range]:
    return [_Range(lowest - highest, lowest, highest, cost_limit)] if lowest <= highest else []
