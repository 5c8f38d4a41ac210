"""The components of a pipeline with their parts, and their tuple, which is displayed as a short table."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from profiler.checking.plain_text import one_line
from profiler.units import format_bytes

_HEADINGS = ("name", "class", "dtype", "weights", "parameters")
_NUMBERS = 2  # the last columns, aligned to the right


class Submodule(NamedTuple):
    """One module of a component, in the order of `named_modules`, which begins with the component; tensors by index."""

    path: str
    parameters: tuple[int, ...]  # its own, without those of its children
    buffers: tuple[int, ...]
    loose_buffers: tuple[int, ...]  # the buffers that are not persistent
    is_list: bool  # an `nn.ModuleList` or `nn.Sequential`: block-level group offload makes groups of its children
    is_leaf: bool  # a layer that leaf-level group offload makes a group of


class TensorSize(NamedTuple):
    """One parameter or buffer of a component, in the order in which `nn.Module._apply` visits them, tied ones once."""

    numel: int
    itemsize: int
    floating: bool  # whether a dtype cast changes it
    device: str  # at the end of set-up: "cpu", "cuda:0", "meta"


@dataclass(frozen=True, kw_only=True)
class RepeatedLayer:
    """One repeated layer of a component: an entry of an outermost `nn.ModuleList`."""

    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Component:
    """One `nn.Module` of the pipeline, as it was when the trace began."""

    name: str
    class_name: str
    dtype: str  # of most of its bytes
    parameters: int
    bytes: int  # of its parameters and buffers, tied ones counted once
    allocated_bytes: int  # on the device, each tensor rounded up by the allocator
    tensors: tuple[TensorSize, ...] = ()
    blocks: tuple[RepeatedLayer, ...] = ()
    first_tensor: int = (
        0  # index into `tensors` of `next(module.parameters())`, which decides residency
    )
    quantization: str = ""  # "bitsandbytes-8bit", ...; "" for none
    # Since version 0.4. The structure that group offload uses; no parts if the component is quantised.
    parts: tuple[Submodule, ...] = ()
    block_modules: tuple[str, ...] = ()  # `_group_offload_block_modules`
    groups: bool = True  # whether its class supports group offload


class Components(tuple[Component, ...]):
    """Components in the order of the pipeline; equivalent to a plain tuple of them."""

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
        """Return the cells; none if an item is not a component, as in `dataclasses.asdict`."""
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
