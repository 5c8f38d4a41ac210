"""The components of a profile: a tuple that shows itself as a short table, in a prompt and in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from profiler.plain_text import one_line
from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.profile import Component  # for what the tuple holds

_HEADINGS = ("name", "class", "dtype", "weights", "parameters")
_NUMBERS = 2  # of the columns, the last: aligned to the right


class Components(tuple["Component", ...]):
    """Components in the order of the pipeline; as good as the plain tuple of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return a line for each component, under headings."""
        if not self._rows():
            return tuple.__repr__(self)
        lines = [_HEADINGS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_line(cells, widths) for cells in lines)

    def _repr_html_(self) -> str:
        heading = "".join(f"<th>{name}</th>" for name in _HEADINGS)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
            for cells in self._rows()
        )
        return f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the cells; none where there is something else than components, as in `dataclasses.asdict`."""
        if not all(hasattr(part, "class_name") for part in self):
            return []
        return [
            (
                one_line(part.name),
                one_line(part.class_name),
                one_line(part.dtype),
                format_bytes(part.bytes),
                f"{part.parameters:,}",
            )
            for part in self
        ]


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first = len(cells) - _NUMBERS
    padded = [
        cell.ljust(width) if place < first else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded)
