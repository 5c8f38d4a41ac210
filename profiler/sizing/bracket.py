"""The search for the largest of many sizes that fits, with as few trials as possible. It knows nothing of memory.

What fits and what does not enclose the answer. The next trial is where a line through two known needs meets the room;
where such a guess has not halved what is left (two of them while one end is open), it is the middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bracket:
    """What is known of sizes in ascending order, of which all up to some fit.

    Args:
        sizes: what the need grows with, roughly in proportion.
        room: what there is of it.
        start: the position of the first trial.

    Attributes:
        fits: the position of the largest size known to fit; -1 if none is.
        fails: the position of the smallest size known not to; the number of sizes if none is.
    """

    def __init__(self, sizes: Sequence[float], room: float, start: int) -> None:
        self.fits = -1
        self.fails = len(sizes)
        self._sizes = sizes
        self._room = room
        self._start = start
        self._needs: dict[int, float] = {}
        self._stalled = 0

    def note(self, position: int, need: float, *, fits: bool) -> None:
        """Take the result of a trial."""
        before = self.fails - self.fits
        enclosed = self.fits >= 0 and self.fails < len(self._sizes)
        self._needs[position] = need
        if fits:
            self.fits = max(self.fits, position)
        else:
            self.fails = min(self.fails, position)
        if len(self._needs) > 2:  # the first two are no guesses by a line
            halved = 2 * (self.fails - self.fits) <= before
            self._stalled = 0 if halved else self._stalled + (2 if enclosed else 1)

    def next(self) -> int | None:
        """Return the position to try next; None if the answer is known."""
        least, most = self.fits + 1, self.fails - 1
        if least > most:
            return None
        guess = self._start if not self._needs else self._guess()
        return min(max(guess, least), most)

    def _guess(self) -> int:
        if len(self._needs) == 1:
            known = next(iter(self._needs))
            factor = 2 if known == self.fits else 0.5
            return self._largest_up_to(factor * self._sizes[known])
        crossing = self._crossing()
        if crossing is None or self._stalled >= 2:
            return (self.fits + self.fails) // 2
        return self._largest_up_to(crossing)

    def _crossing(self) -> float | None:
        """Return the size at which the line through the two trials nearest to the answer meets the room."""
        below = sorted(one for one in self._needs if one <= self.fits)
        above = sorted(one for one in self._needs if one >= self.fails)
        first, second = (
            (*below[-2:], *above[:2])[:2] if not (below and above) else (below[-1], above[0])
        )
        rise = self._needs[second] - self._needs[first]
        if rise <= 0:
            return None
        slope = (self._sizes[second] - self._sizes[first]) / rise
        return self._sizes[first] + (self._room - self._needs[first]) * slope

    def _largest_up_to(self, size: float) -> int:
        return max((place for place, one in enumerate(self._sizes) if one <= size), default=0)
