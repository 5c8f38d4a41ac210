"""The order in which a call uses its components, and the GPU memory that each use needs besides all weights.

Hooks act when a component is entered. A use begins there and lasts until the next one, including what the pipeline
itself does in between. Several uses of a component in a row count as one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from profiler.placements.weights import weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from profiler.planning.replaying.tape import Op
    from profiler.planning.replaying.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of a component."""

    component: str
    weight_bytes: int  # of the component on the GPU, at most, casts included
    other_bytes: int  # allocated besides weights, at most
    within: tuple[str, ...] = ()  # components that are running meanwhile, and must stay


def uses_of(workload: Workload) -> tuple[Use, ...]:
    """Return the uses of one call, or of each of several calls, once they repeat.

    Each counts the largest need of any use of its component, also in the first calls, which may cast or set up more.
    """
    reader = _Reader(workload)
    for call in range(workload.repeated.start):
        reader.read_call(workload.tape(call))
    before = len(reader.finished())
    for call in workload.repeated:
        reader.read_call(workload.tape(call))
    uses = reader.finished()
    needed: dict[str, int] = {}
    for use in uses[:before]:
        needed[use.component] = max(needed.get(use.component, 0), use.other_bytes)
    repeated = (
        replace(use, other_bytes=max(use.other_bytes, needed.get(use.component, 0)))
        for use in uses[before:]
    )
    return tuple(_merged(repeated))


class _Reader:
    """A reader of tapes; what comes before the first use belongs to the last use of the previous call."""

    def __init__(self, workload: Workload) -> None:
        self._weights = weights_of(workload.components)
        self._casts: dict[str, str | None] = dict.fromkeys(self._weights)
        self._immovable_bytes = sum(self._size(name) for name in workload.fixed)
        self._fixed = workload.fixed
        self._entered: list[str] = []
        self._uses: list[Use] = []
        self._before_bytes = 0

    def read_call(self, ops: Iterable[Op]) -> None:
        """Read the operations of one call."""
        for op in ops:
            self._read(op)

    def _read(self, op: Op) -> None:
        name = op.event.component
        self._need(op.gap_floating_bytes)
        if op.kind == "enter":
            if op.fires and name not in self._fixed:
                within = tuple(dict.fromkeys(self._entered))
                use = Use(
                    component=name, weight_bytes=self._size(name), other_bytes=0, within=within
                )
                self._uses.append(use)
            self._entered.append(name)
        elif op.kind == "exit" and name in self._entered:
            self._entered.remove(name)
        elif op.kind == "cast":
            self._cast(op)
        self._need(op.peak_floating_bytes)

    def finished(self) -> list[Use]:
        """Return the uses, each with the bytes of its component in its largest dtype."""
        if self._uses:
            self._need(self._before_bytes)
        largest: dict[str, int] = {}
        for use in self._uses:
            largest[use.component] = max(largest.get(use.component, 0), use.weight_bytes)
        return [replace(use, weight_bytes=largest[use.component]) for use in self._uses]

    def _size(self, name: str) -> int:
        return self._weights[name].size(self._casts[name]).allocated_bytes

    def _need(self, floating_bytes: int) -> None:
        needed = floating_bytes + self._immovable_bytes
        if not self._uses:
            self._before_bytes = max(self._before_bytes, floating_bytes)
        elif needed > self._uses[-1].other_bytes:
            self._uses[-1] = replace(self._uses[-1], other_bytes=needed)

    def _cast(self, op: Op) -> None:
        """Account for a cast on the GPU: it briefly holds two copies of a tensor, and changes the component's size."""
        name, dtype = op.event.component, op.event.dtype
        before = self._size(name)
        extra = self._weights[name].cast_extra_bytes(self._casts[name], dtype)
        self._casts[name] = dtype
        largest = max(before, self._size(name))
        self._need(op.before_floating_bytes + max(before + extra - largest, 0))
        self._uses = [
            replace(use, weight_bytes=max(use.weight_bytes, largest))
            if use.component == name
            else use
            for use in self._uses
        ]


def _merged(uses: Iterable[Use]) -> list[Use]:
    """Return the uses, with consecutive ones of the same component merged."""
    merged: list[Use] = []
    for use in uses:
        last = merged[-1] if merged else None
        if last is not None and (last.component, last.within) == (use.component, use.within):
            merged[-1] = replace(last, other_bytes=max(last.other_bytes, use.other_bytes))
        else:
            merged.append(use)
    return merged
