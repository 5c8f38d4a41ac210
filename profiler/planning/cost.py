"""What every placement of every component costs, tabulated once, so that a plan's totals are sums.

The one idea: under model offload a component's time on the card depends on its own entries and on its *successor*
in the sequence (the one whose hook evicts it), on nothing else. So the plan `te -> unet -> vae` is the sum of three
*rides*, each tabulated by itself, and the allocated bytes at any moment are the floating bytes plus the rides'
loads.

Moments at which every ride's load is equal are kept once, with the highest floating bytes: this collapses the runs
of equal denoise steps. `evaluate` equals `simulate` by property test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from profiler.planning.placements import OFFLOAD, OUTSIDE, RESIDENT, known_part
from profiler.planning.weights import weights_of
from profiler.planning.workload import FREE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.planning.placements import Scheme
    from profiler.planning.weights import Weights
    from profiler.planning.workload import Op, Workload
    from profiler.profile import Event

TRAVELS, STAYS, UNEVICTED = "travels", "stays", "unevicted"
"""Rides without a successor: excluded in stock diffusers, excluded for good, evicted only by the call's end."""

_REPEATS = 2
"""Calls replayed after the recorded ones: where a call does not end by freeing, the next one may differ."""


class Ride(NamedTuple):
    """What one component does under one choice."""

    h2d_bytes: int  # weights moved per call, once calls repeat
    d2h_bytes: int
    load: tuple[int, ...]  # allocated bytes on the card at each moment
    sound: bool  # False where it would leave the card while it runs


class Moment(NamedTuple):
    """A stretch of the run between two changes; `event` is the one that ends it or fills it."""

    floating_bytes: int
    event: Event


@dataclass(frozen=True)
class Totals:
    """What a plan costs: the highest allocated bytes of all calls, weight bytes of a call once calls repeat."""

    peak_allocated_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int


@dataclass(frozen=True)
class Rides:
    """All rides of a workload's components, and the moments that their loads refer to."""

    names: tuple[str, ...]
    moments: tuple[Moment, ...]
    table: dict[
        tuple[str, str], Ride
    ]  # by component, and by successor or TRAVELS, STAYS, UNEVICTED

    def ride(self, scheme: Scheme, name: str) -> Ride:
        """Return what `name` does under `scheme`."""
        return self.table[name, choice(scheme, self.names, name)]

    def loads(self, scheme: Scheme) -> list[int]:
        """Return the allocated bytes at each moment under `scheme`."""
        columns = zip(*(self.ride(scheme, name).load for name in self.names), strict=True)
        weights = [sum(column) for column in columns] or [0] * len(self.moments)
        return [m.floating_bytes + w for m, w in zip(self.moments, weights, strict=True)]

    def sound(self, scheme: Scheme) -> bool:
        """Whether no component leaves the card while it runs."""
        return all(self.ride(scheme, name).sound for name in self.names)


def evaluate(rides: Rides, scheme: Scheme) -> Totals:
    """Return the totals of `scheme`, equal to what `simulate` logs."""
    scheme = known_part(scheme, rides.names)
    ridden = [rides.ride(scheme, name) for name in rides.names]
    return Totals(
        max(rides.loads(scheme)),
        sum(ride.h2d_bytes for ride in ridden),
        sum(ride.d2h_bytes for ride in ridden),
    )


def choice(scheme: Scheme, names: tuple[str, ...], name: str) -> str:
    """Return the key of `name`'s ride under `scheme`."""
    placement = scheme.placement(name)
    if placement == RESIDENT:
        stays = scheme.sticky or not scheme.hooked(names)
        return STAYS if stays else TRAVELS
    if placement == OUTSIDE:
        return UNEVICTED
    assert placement == OFFLOAD, placement
    return scheme.successors().get(name, UNEVICTED)


def tabulate(workload: Workload) -> Rides:
    """Return every ride of every component of `workload`."""
    ops = [op for call in range(len(workload.calls) + _REPEATS) for op in workload.tape(call)]
    last = len(ops) - len(workload.calls[-1])
    weights = weights_of(workload.components)
    names = workload.names
    table = {}
    for name in names:
        keys = (TRAVELS, STAYS, UNEVICTED, *(other for other in names if other != name))
        for key in keys:
            ridden = STAYS if name in workload.fixed else key
            table[name, key] = _Rider(name, weights[name], ridden).ride(ops, last)
    moments = [moment for op in ops for moment in _moments(op)]
    return _collapse(names, moments, table)


def _moments(op: Op) -> Iterator[Moment]:
    yield Moment(op.lead_floating_bytes, op.event)
    yield Moment(op.peak_floating_bytes, op.event)


def _collapse(
    names: tuple[str, ...], moments: list[Moment], table: dict[tuple[str, str], Ride]
) -> Rides:
    """Keep of all moments with equal loads the one with the highest floating bytes."""
    kept: dict[tuple[int, ...], int] = {}
    for index, column in enumerate(zip(*(ride.load for ride in table.values()), strict=True)):
        best = kept.setdefault(column, index)
        if moments[index].floating_bytes > moments[best].floating_bytes:
            kept[column] = index
    order = sorted(kept.values())
    thin = {
        key: ride._replace(load=tuple(ride.load[index] for index in order))
        for key, ride in table.items()
    }
    return Rides(names, tuple(moments[index] for index in order), thin)


class _Rider:
    """One component under one choice, driven through the operations of all calls."""

    def __init__(self, name: str, weights: Weights, key: str) -> None:
        self._name, self._weights, self._key = name, weights, key
        self._on_card = key in (TRAVELS, STAYS)
        self._hooked = not self._on_card
        self._cast: str | None = None
        self._sound = True
        self._h2d_bytes = self._d2h_bytes = 0

    def ride(self, ops: list[Op], last: int) -> Ride:
        """Return the ride; bytes are those of the operations from `last` on."""
        load: list[int] = []
        for index, op in enumerate(ops):
            if index == last:
                self._h2d_bytes = self._d2h_bytes = 0
            load.append(self._resident_bytes())
            load.append(self._react(op))
        return Ride(self._h2d_bytes, self._d2h_bytes, tuple(load), self._sound)

    def _react(self, op: Op) -> int:
        """Do what `op` means for this component; return its load while `op` runs."""
        own = op.event.component == self._name
        if own and op.kind == "cast":
            return self._recast(op.event.dtype)
        if op.kind == FREE:
            self._free()
        elif op.fires and op.event.component == self._key:
            self._move(on=False)
        elif own and op.kind in ("onload", "offload"):
            self._move(on=op.kind == "onload")
        elif own and op.fires and self._hooked:
            self._move(on=True)
        elif own and op.kind == "exit":
            self._sound &= self._on_card or not op.event.resident_bytes
        return self._resident_bytes()

    def _free(self) -> None:
        if self._key == STAYS:
            return
        self._move(on=False)
        if self._key == TRAVELS:
            self._move(on=True)

    def _recast(self, dtype: str) -> int:
        """Cast the weights; while that runs on the card, one tensor is held twice."""
        extra = self._weights.cast_extra_bytes(self._cast, dtype) if self._on_card else 0
        load = self._resident_bytes() + extra
        self._cast = dtype
        return load

    def _move(self, *, on: bool) -> None:
        if on == self._on_card:
            return
        self._on_card = on
        moved = self._weights.size(self._cast).moved_bytes
        if on:
            self._h2d_bytes += moved
        else:
            self._d2h_bytes += moved

    def _resident_bytes(self) -> int:
        return self._weights.size(self._cast).allocated_bytes if self._on_card else 0
