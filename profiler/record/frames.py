"""The record as DataFrames: one row for each component, call, step, residency, transfer, or moment of memory.

Sizes are integers in bytes, times are seconds from the start of the trace. Each property builds a new frame, which the
caller may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from profiler.record import moments
from profiler.record import readings as reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from profiler.record.events import Event
    from profiler.record.profile import Profile


@dataclass(frozen=True)
class Frames:
    """The tables of one profile."""

    profile: Profile

    @property
    def components(self) -> pd.DataFrame:
        """One row for each component: size, traffic, and the peak while it computed (0 if never called)."""
        peaks = moments.compute_peaks(self.profile)
        uses = _uses(self.profile)
        rows = []
        for part in self.profile.components:
            peak = peaks[part.name].peak_bytes if part.name in peaks else 0
            sizes = (part.parameters, part.bytes, part.allocated_bytes)
            rows.append((part.name, part.class_name, part.dtype, *sizes, *uses[part.name], peak))
        return _frame(COMPONENT_COLUMNS, rows)

    @property
    def calls(self) -> pd.DataFrame:
        """One row for each call of the pipeline; call -1 stands for everything outside any call."""
        rows = [(call, *tally) for call, tally in reading.calls(self.profile)]
        return _frame(("call", *reading.Tally._fields), rows)

    @property
    def steps(self) -> pd.DataFrame:
        """One row for each denoise step; `resident` names the components that had bytes on the GPU during it."""
        rows = [
            (s.call, s.step, *s.tally, ", ".join(s.resident)) for s in reading.steps(self.profile)
        ]
        return _frame(("call", "step", *reading.Tally._fields, "resident"), rows)

    @property
    def residency(self) -> pd.DataFrame:
        """One row for each stretch in which a component's bytes on the GPU did not change."""
        return _frame(reading.Stay._fields, reading.stays(self.profile))

    @property
    def transfers(self) -> pd.DataFrame:
        """One row for each move of weights and each other copy between host and GPU."""
        rows = []
        for event in self.profile.events:
            way = reading.direction(event)
            if way:
                values = {**event._asdict(), "direction": way, "weights": event.kind != "copy"}
                rows.append(tuple(values[name] for name in TRANSFER_COLUMNS))
        return _frame(TRANSFER_COLUMNS, rows)

    @property
    def memory(self) -> pd.DataFrame:
        """Memory of GPU and host over time, one row for each event, including the peak of its gap."""
        rows = [
            (
                *(getattr(event, name) for name in MEMORY_COLUMNS[:-1]),
                event.start_seconds + event.seconds,
            )
            for event in self.profile.events
        ]
        return _frame(MEMORY_COLUMNS, rows)


class Traffic(NamedTuple):
    """A component's traffic during the trace."""

    calls: int  # entries from outside the component itself
    seconds: float  # between enter and exit, including the moves made by its hooks
    h2d_bytes: int
    d2h_bytes: int


COMPONENT_COLUMNS = (
    "component",
    "class_name",
    "dtype",
    "parameters",
    "bytes",
    "allocated_bytes",
    *Traffic._fields,
    "compute_peak_bytes",
)
TRANSFER_COLUMNS = (
    "ordinal",
    "call",
    "phase",
    "step",
    "component",
    "group",
    "kind",
    "weights",
    "direction",
    "bytes",
    "dtype",
    "from_device",
    "to_device",
    "stream",
    "asked_by",
    "start_seconds",
    "seconds",
    "transfer_seconds",
    "exposed_transfer_seconds",
)
MEMORY_COLUMNS = (
    "ordinal",
    "call",
    "phase",
    "step",
    "kind",
    "component",
    "lead_peak_bytes",
    "before_bytes",
    "peak_bytes",
    "after_bytes",
    "reserved_bytes",
    "host_pageable_bytes",
    "host_pinned_bytes",
    "host_peak_bytes",
    "start_seconds",
    "end_seconds",
)


def _uses(profile: Profile) -> dict[str, Traffic]:
    return {
        part.name: _use([e for e in profile.events if e.component == part.name])
        for part in profile.components
    }


def _use(events: list[Event]) -> Traffic:
    calls, seconds = 0, 0.0
    entered: list[float] = []
    moved = {"h2d": 0, "d2h": 0}
    for event in events:
        way = reading.direction(event)
        if way:
            moved[way] += event.bytes
        elif event.kind == "enter":
            entered.append(event.start_seconds)
        elif event.kind == "exit" and entered:
            start = entered.pop()
            if not entered:
                calls, seconds = calls + 1, seconds + event.start_seconds - start
    return Traffic(calls, seconds, moved["h2d"], moved["d2h"])


def _frame(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns))
