"""Simulation of whole-component offload: onload by `CpuOffload`, eviction by the successor's hook.

Each component goes through the operations of all calls alone, since its time on the GPU depends on no other placement.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from profiler.planning.replaying.workload import FREE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from profiler.placements.weights import Weights, WeightSize
    from profiler.planning.replaying.tape import Op

TRAVELS, STAYS, UNEVICTED = "(travels)", "(stays)", "(unevicted)"
"""Placements without a successor: excluded in stock diffusers, excluded for good, evicted only by the call's end."""


class Moved(NamedTuple):
    """Weights moved in one call."""

    h2d_bytes: int = 0
    d2h_bytes: int = 0
    cast_d2h_bytes: int = 0  # the part of `d2h_bytes` that no kept host copy could replace

    def and_also(self, other: Moved) -> Moved:
        """Return the sum of both."""
        return Moved(*map(sum, zip(self, other, strict=True)))


class WholeCost(NamedTuple):
    """The traffic and the load of a component that moves as a whole."""

    first: Moved  # in the first call
    last: tuple[Moved, ...]  # in each call of a round, once rounds repeat
    moved_bytes: int  # by one move, if it is never cast
    allocated_bytes: int
    load: NDArray[np.int64]
    placed: bool  # whether set-up onloads it
    sound: bool
    is_cast: bool
    is_moved: bool  # by the pipeline itself

    def at(self, moments: list[int]) -> WholeCost:
        """Return the record with the load at these moments only."""
        return self._replace(load=self.load[moments])

    def of_size(self, size: WeightSize) -> WholeCost:
        """Return the record for weights of another size; only for a component that is never cast."""
        own = max(self.moved_bytes, 1)
        present = self.load > 0

        def of(moved: Moved) -> Moved:
            return Moved(*(nbytes // own * size.moved_bytes for nbytes in moved))

        return self._replace(
            first=of(self.first),
            last=tuple(map(of, self.last)),
            moved_bytes=size.moved_bytes,
            allocated_bytes=size.allocated_bytes,
            load=np.where(present, size.allocated_bytes, 0),
        )


def whole_cost(
    name: str, weights: Weights, where: str, ops: list[Op], last: Iterable[int]
) -> WholeCost:
    """Return the traffic and the load of a component through all calls.

    Args:
        name: The component's name.
        weights: Its weights.
        where: The name of the component that evicts it, or one of the placements without a successor.
        ops: The operations of all calls.
        last: The numbers of the last round's calls.
    """
    return _WholeReplay(name, weights, where).run(ops, last)


class _WholeReplay:
    """Simulation of one component that moves as a whole, through the operations of all calls."""

    def __init__(self, name: str, weights: Weights, where: str) -> None:
        self._name, self._weights, self._where = name, weights, where
        self._on_gpu = self._placed = where in (TRAVELS, STAYS)
        self._hooked = not self._on_gpu
        self._cast: str | None = None
        self._cast_on_gpu = False
        self._sound, self._is_cast, self._is_moved = True, False, False
        self._call = 0
        self._moved: defaultdict[int, Moved] = defaultdict(Moved)  # by call

    def run(self, ops: list[Op], last: Iterable[int]) -> WholeCost:
        """Simulate all operations, and return the traffic and the load."""
        load: list[int] = []
        for op in ops:
            self._call = op.event.call
            load += [self._resident_bytes()] * len(op.gap)
            load.append(self._react(op))
        size = self._weights.size(None)
        return WholeCost(
            self._moved[ops[0].event.call],
            tuple(self._moved[call] for call in last),
            size.moved_bytes,
            size.allocated_bytes,
            np.array(load, dtype=np.int64),
            self._placed,
            self._sound,
            self._is_cast,
            self._is_moved,
        )

    def _react(self, op: Op) -> int:
        """Apply `op` to this component, and return its load while `op` runs."""
        own = op.event.component == self._name
        if own and op.kind == "cast":
            self._is_cast = True
            return self._recast(op.event.dtype)
        if op.kind == FREE:
            self._free()
        elif op.fires and op.event.component == self._where:
            self._move(on=False)
        elif own and op.kind in ("onload", "offload"):
            self._is_moved = True
            self._move(on=op.kind == "onload")
        elif own and op.fires and self._hooked:
            self._move(on=True)
        elif own and op.kind == "exit":
            self._sound &= self._on_gpu or not op.event.resident_bytes
        return self._resident_bytes()

    def _free(self) -> None:
        if self._where == STAYS:
            return
        self._move(on=False)
        if self._where == TRAVELS:
            self._move(on=True)

    def _recast(self, dtype: str) -> int:
        """Cast the weights, and return the load: during a cast on the GPU, one tensor is allocated twice."""
        extra = self._weights.cast_extra_bytes(self._cast, dtype) if self._on_gpu else 0
        load = self._resident_bytes() + extra
        if self._weights.changed_bytes(self._cast, dtype):
            self._cast_on_gpu |= self._on_gpu
            self._cast = dtype
        return load

    def _move(self, *, on: bool) -> None:
        if on == self._on_gpu:
            return
        self._on_gpu = on
        moved = self._weights.size(self._cast).moved_bytes
        cast = self._weights.floating_bytes(self._cast) if self._cast_on_gpu else 0
        more = Moved(h2d_bytes=moved) if on else Moved(0, moved, cast)
        self._moved[self._call] = self._moved[self._call].and_also(more)
        self._cast_on_gpu = False

    def _resident_bytes(self) -> int:
        return self._weights.size(self._cast).allocated_bytes if self._on_gpu else 0
