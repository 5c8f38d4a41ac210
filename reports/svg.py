"""A minimal SVG writer for the figures: elements, scales, filled bands."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reports.curves import Band


class Scale(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float  # pixel of `high`

    def at(self, value: float) -> float:
        """Return the pixel of `value`."""
        span = self.high - self.low
        return (
            self.start + (value - self.low) / span * (self.end - self.start) if span else self.start
        )


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """Return an SVG element; `class_` stands for `class`, and `_` in a name for `-`. Content is markup."""
    pairs = (
        f'{_attribute(key)}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = " ".join((name, *pairs))
    return f"<{opening}>{content}</{name}>" if content else f"<{opening}/>"


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """Return a text element; `content` is escaped."""
    return element("text", escape(content, quote=False), x=x, y=y, **attributes)


def rectangle(x: float, y: float, width: float, height: float, **attributes: object) -> str:
    """Return a rectangle."""
    return element("rect", x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def band(slices: Sequence[Band], x: Scale, y: Scale, **attributes: object) -> str:
    """Return the area between the lower and the upper edges; "" if it is empty throughout."""
    runs = [_drawn(run, x, y) for run in _runs(slices)]
    return element("path", d="".join(runs), **attributes) if runs else ""


def polyline(
    points: Iterable[tuple[float, float]], x: Scale, y: Scale, **attributes: object
) -> str:
    """Return an open line through `points`."""
    pixels = " ".join(f"{_number(x.at(px))},{_number(y.at(py))}" for px, py in points)
    return element("polyline", points=pixels, fill="none", **attributes)


def _runs(slices: Sequence[Band]) -> list[list[Band]]:
    """Return the stretches in which the band has a height, each with the slices at its ends."""
    runs: list[list[Band]] = []
    open_run: list[Band] = []
    for one, other in pairwise(slices):
        if one.high > one.low or other.high > other.low:
            open_run += [other] if open_run else [one, other]
        elif open_run:
            runs.append(open_run)
            open_run = []
    return [*runs, open_run] if open_run else runs


def _drawn(run: list[Band], x: Scale, y: Scale) -> str:
    kept = [
        piece
        for index, piece in enumerate(run)
        if index in (0, len(run) - 1) or not piece[1:] == run[index - 1][1:] == run[index + 1][1:]
    ]
    upper = [f"{_number(x.at(piece.position))},{_number(y.at(piece.high))}" for piece in kept]
    lower = [
        f"{_number(x.at(piece.position))},{_number(y.at(piece.low))}" for piece in reversed(kept)
    ]
    return f"M{'L'.join((*upper, *lower))}Z"


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)
