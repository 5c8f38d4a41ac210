"""Conversion of sizes as people write them to and from integers of bytes.

Inside the toolkit every size is an integer of bytes; these functions convert at its boundary.
"""

from __future__ import annotations

import re
from operator import index
from typing import Any

from profiler.checking.given import named
from profiler.errors import InputError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
NANOSECONDS = 10**9  # per second

_BYTES_PER_UNIT = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)\s*")
_PERCENT = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*%\s*")


def parse_bytes(size: str | int) -> int:
    """Return the bytes that `size` stands for: `8GiB` is 8 x 2^30, `8GB` is 8 x 10^9, 8 is eight bytes.

    Text without a unit is refused: `--budget 8` is a mistake for `8GiB`, never eight bytes.

    Raises:
        InputError: if it is not a size, or not a positive one.
    """
    count = _parse_size(size) if isinstance(size, str) else _whole(size)
    if count <= 0:
        raise InputError(f"{size!r} is not a size: it must be more than nothing, for example 8GiB")
    return count


def _whole(size: Any) -> int:
    """Return a whole number of bytes; integers of numpy and torch are accepted as well."""
    try:
        return index(size) if not isinstance(size, bool) else 0
    except TypeError as error:
        raise InputError(
            f"{named(size)} is not a size: give bytes as a whole number, or text, for example 8GiB"
        ) from error


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    unit = _BYTES_PER_UNIT.get(match["unit"].lower()) if match else None
    if match is None or unit is None:
        raise InputError(
            f"{text!r} is not a size: write a number and a unit, for example 8GiB, 8GB or 8192MiB"
        )
    return round(float(match["number"]) * unit)


def format_bytes(count: int) -> str:
    """Return `count` bytes in the unit a reader expects: `5.09 GiB`, `320.0 MiB`, `12 B`."""
    size = abs(count)
    sign = "-" if count < 0 else ""
    if size >= GIB:
        return f"{sign}{size / GIB:.2f} GiB"
    if size >= MIB:
        return f"{sign}{size / MIB:.1f} MiB"
    if size >= KIB:
        return f"{sign}{size / KIB:.1f} KiB"
    return f"{sign}{size} B"


def parse_fraction(text: str | float) -> float:
    """Return the fraction that `text` stands for: `2%` is 0.02, `0.02` is 0.02.

    Raises:
        InputError: if it is neither a percentage nor a number from 0 to 1.
    """
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    try:
        fraction = float(match["number"]) / 100 if match else float(text)
    except ValueError:
        fraction = -1.0
    if not 0.0 <= fraction <= 1.0:
        raise InputError(
            f"{text!r} is not a fraction: write a percentage such as 2% or a number from 0 to 1"
        )
    return fraction


def format_fraction(fraction: float) -> str:
    """Return `fraction` as a percentage: `2 %`, `0.3 %`."""
    percent = fraction * 100
    return f"{percent:.0f} %" if percent == round(percent) else f"{percent:.1f} %"


def format_band(above: float, below: float) -> str:
    """Return the band by which a figure may be too low and too high, given as fractions: `± 1 %`, `+ 1 %, - 2.5 %`."""
    if format_fraction(above) == format_fraction(below):
        return f"± {format_fraction(above)}"
    return f"+ {format_fraction(above)}, - {format_fraction(below)}"


def format_range(seconds: float, above: float, below: float) -> str:
    """Return the band of seconds, given as fractions above and below: `9.8 to 15.4 s`; "" if both are 0."""
    if not (above or below):
        return ""
    least, most = format_seconds(seconds * (1 - below)), format_seconds(seconds * (1 + above))
    number, _, unit = least.rpartition(" ")
    return f"{number if most.endswith(' ' + unit) and most.count(' ') == 1 else least} to {most}"


def format_seconds(seconds: float) -> str:
    """Return `seconds` in the unit a reader expects: `840 ms`, `12.3 s`, `4 min 05 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
