"""Torch's own memory history of a traced run, and the purpose of each block at its peak.

The snapshot is torch's unchanged dictionary, which pytorch.org/memory_viz reads. It takes megabytes, so it is not part
of a saved profile: `MemoryHistory.save` writes it to its own file.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.atomic import replacing
from profiler.errors import InputError
from profiler.units import format_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import pandas as pd

BEFORE = "before the trace"

_NOBODY = "pipeline"
_WORDS = ("component", "what", "phase")
_CELL = "text-align:left;padding:3px 18px 3px 0;border:0;background:none"
_NUMBER = "text-align:right;padding:3px 18px 3px 0;border:0;background:none;font-variant-numeric:tabular-nums"


class HeldBlock(NamedTuple):
    """One block that was allocated at the peak of the trace."""

    address: int
    bytes: int  # the whole block, including the rest that could not be split off
    requested_bytes: int
    component: str  # the component it was allocated for; "" for none
    what: str  # "weights", "activations" of a component that ran, "other"
    call: int  # the call of the pipeline that allocated it, from 0; -1 outside any
    phase: str  # one of `profiler.record.profile.PHASES`, or `BEFORE`
    step: int  # denoise step from 0; -1 outside the loop


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MemoryHistory:
    """The memory history that torch recorded during a trace."""

    snapshot: dict[str, Any]  # from `torch.cuda.memory._snapshot()`, at the end of the trace
    held: tuple[HeldBlock, ...]  # at the peak, by address; they add up to it
    note: str  # who started the recording, and how it was handled
    gap: str = ""  # reason why the peak is not known; "" if it is

    @property
    def blocks(self) -> pd.DataFrame:
        """One row for each block that was allocated at the peak of the trace, by address.

        Raises:
            InputError: if torch did not record enough.
        """
        return _frame(self._known_blocks(), HeldBlock._fields)

    @property
    def by_component(self) -> pd.DataFrame:
        """The same blocks added up by component and purpose, the most bytes first.

        Raises:
            InputError: as `blocks`.
        """
        return _frame(self._sums(), ("component", "what", "blocks", "bytes", "requested_bytes"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot to `path` as pytorch.org/memory_viz reads it, whole or not at all.

        Raises:
            InputError: if `path` cannot be written.
        """
        with replacing(path) as temporary, temporary.open("wb") as file:
            pickle.dump(self.snapshot, file)

    def _known_blocks(self) -> tuple[HeldBlock, ...]:
        if self.gap:
            raise InputError(f"the blocks at the peak are not known: {self.gap}")
        return self.held

    def _sums(self) -> list[tuple[str, str, int, int, int]]:
        """Return (component, what, blocks, bytes, requested bytes), the most bytes first."""
        count: Counter[tuple[str, str]] = Counter()
        taken, requested = count.copy(), count.copy()
        for block in self._known_blocks():
            key = (_owner(block), block.what)
            count[key] += 1
            taken[key] += block.bytes
            requested[key] += block.requested_bytes
        return [(*key, count[key], nbytes, requested[key]) for key, nbytes in taken.most_common()]

    def __repr__(self) -> str:
        entries = sum(map(len, self.snapshot["device_traces"]))
        peak = self.gap or f"{len(self.held)} blocks at the peak of {self._peak()}"
        return f"<MemoryHistory: {entries} entries, {peak}>"

    def _peak(self) -> str:
        return format_bytes(sum(block.bytes for block in self.held))

    def _repr_html_(self) -> str:
        if self.gap:
            return f"<div>{escape(repr(self))}</div>"
        rows = "".join(
            f'<tr style="background:none"><td style="{_CELL}">{escape(component or _NOBODY)}</td>'
            f'<td style="{_CELL}">{what}</td><td style="{_NUMBER}">{blocks}</td>'
            f'<td style="{_NUMBER}">{format_bytes(nbytes)}</td></tr>'
            for component, what, blocks, nbytes, _ in self._sums()
        )
        names = "".join(
            f'<th style="{_CELL if name in _WORDS else _NUMBER};font-weight:600">{name}</th>'
            for name in ("component", "what", "blocks", "allocated")
        )
        rows = f'<tr style="background:none">{names}</tr>{rows}'
        return (
            '<div style="max-width:760px;line-height:1.5">'
            f'<div style="font-weight:600">{self._peak()} at the peak</div>'
            f'<table style="border-collapse:collapse;margin:4px 0">{rows}</table><div>{escape(self.note)}</div></div>'
        )


def _frame(rows: Iterable[tuple[object, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return rows as a table with integer columns, even if there are no rows."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(columns))
    return frame.astype({name: "int64" for name in columns if name not in _WORDS})


def _owner(block: HeldBlock) -> str:
    """Return the owner of a block in a sum; blocks of unknown owners are grouped by whether they precede the trace."""
    return block.component or (BEFORE if block.phase == BEFORE else "")
