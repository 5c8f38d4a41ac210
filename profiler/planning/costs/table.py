"""Cost of every placement of every component, tabulated once, so that a plan's totals are sums.

Two facts make this possible. Under model offload, a component's time on the GPU depends only on its own entries and on
its *successor* in the sequence (the component whose hook evicts it). And hooks inside a component act only during its
own forwards. So a plan is the sum of the costs of its placements (`PlacementCost`), one for each component, each
tabulated independently, and the allocated bytes at any moment are the floating bytes plus the placements' loads.

Moments at which every placement's load is equal are kept once, with the highest floating bytes; this collapses runs
of equal denoise steps. A property test checks that `evaluate` equals `simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from profiler.placements.evictions import COPY, DROP, EVICTIONS
from profiler.placements.placement import HostBytes
from profiler.placements.scheme import known_part
from profiler.placements.table import host_bytes
from profiler.placements.weights import Weights
from profiler.planning.costs.forwards import Forwards, Spot, Walk, passes
from profiler.planning.costs.link import HOST_COPY_BYTES_PER_SECOND, UNKNOWN
from profiler.planning.costs.whole_components import STAYS, TRAVELS, UNEVICTED, whole_cost
from profiler.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from profiler.placements.placement import Placement
    from profiler.placements.scheme import Scheme
    from profiler.placements.weights import WeightSize
    from profiler.planning.costs.link import Link
    from profiler.planning.costs.whole_components import Moved, WholeCost
    from profiler.planning.replaying.tape import Op
    from profiler.planning.replaying.workload import Workload
    from profiler.record.components import Component
    from profiler.record.events import Event

SPLIT = "(split)"
"""Placement of a component that does not move as a whole."""

_REPEATS = 2
"""Rounds of calls replayed after the recorded ones: if a call does not end by freeing, the next one may differ."""


class Choice(NamedTuple):
    """The placement of one component, as far as its own cost depends on it."""

    where: str  # its successor's name, or TRAVELS, STAYS, UNEVICTED, SPLIT
    swap: str = COPY
    inside: Placement | None = None


class PlacementCost(NamedTuple):
    """The cost of one component under one placement."""

    h2d_bytes: int  # weights moved in a round of calls, once rounds repeat
    d2h_bytes: int
    exposed_nanoseconds: int  # added to such a round by these moves
    first_nanoseconds: int  # added to the first call by set-up and moves
    load: NDArray[np.int64]  # allocated bytes on the GPU at each moment, above those of the moment
    host: HostBytes
    sound: bool  # False if it would leave the GPU while it runs


class LoadMoment(NamedTuple):
    """A stretch of the run between two changes; `event` is the one that ends it or fills it."""

    floating_bytes: int
    event: Event
    spot: Spot | None = None  # if inside a forward


@dataclass(frozen=True)
class SchemeTotals:
    """Totals of a plan: the peak is that of all calls, the other figures are those of a round once rounds repeat."""

    peak_allocated_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    exposed_nanoseconds: int
    first_nanoseconds: int
    host: HostBytes


_T = TypeVar("_T")


def _remembering(method: Callable[..., _T]) -> Callable[..., _T]:
    """Return a method of `CostTable` that caches its results."""

    @wraps(method)
    def remembered(self: CostTable, *question: Any) -> _T:
        key = (method.__name__, *question)
        if key not in self._remembered:
            self._remembered[key] = method(self, *question)
        answer: _T = self._remembered[key]
        return answer

    return remembered


@dataclass
class CostTable:
    """Placement costs of all components of a workload, computed on demand, and the moments that they refer to."""

    names: tuple[str, ...]
    moments: tuple[LoadMoment, ...]
    fixed: frozenset[str]
    _components: dict[str, Component]
    _forwards: dict[str, Forwards]
    _whole: dict[tuple[str, str], WholeCost]  # by component and placement
    _link: Link
    _round: tuple[
        tuple[int, int], ...
    ]  # the calls of the last round, and how often each occurs in it
    shared: bool = (
        False  # loads count the weights on the host, too, since it shares the GPU's memory
    )
    _floating: NDArray[np.int64] = field(init=False)
    _remembered: dict[object, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Gather the floating bytes of all moments."""
        self._floating = np.array([one.floating_bytes for one in self.moments], dtype=np.int64)

    def of_call(self, place: int) -> CostTable:
        """Return the table for a single call of a round, by its place in the round."""
        alone = tuple((call, int(at == place)) for at, (call, _) in enumerate(self._round))
        return replace(self, _round=alone)

    def placement_costs(self, scheme: Scheme) -> list[PlacementCost]:
        """Return the cost of each component under `scheme`."""
        made, placed = self._remembered, []
        for question in choices_in(scheme, self.names).items():
            key = ("placement_cost", *question)
            placed.append(made[key] if key in made else self.placement_cost(*question))
        return placed

    def loads(self, scheme: Scheme) -> list[int]:
        """Return the allocated bytes at each moment under `scheme`."""
        return list(map(int, self._loads(self.placement_costs(scheme))))

    def sound(self, scheme: Scheme) -> bool:
        """Tell whether no component leaves the GPU while it runs."""
        return all(cost.sound for cost in self.placement_costs(scheme))

    def totals(self, scheme: Scheme) -> SchemeTotals:
        """Return the sums over all components."""
        placed = self.placement_costs(scheme)
        up = down = exposed = first = pageable = pinned = 0
        for cost in placed:
            up += cost.h2d_bytes
            down += cost.d2h_bytes
            exposed += cost.exposed_nanoseconds
            first += cost.first_nanoseconds
            pageable += cost.host.pageable
            pinned += cost.host.pinned
        host = HostBytes(pageable, pinned)
        return SchemeTotals(int(self._loads(placed).max()), up, down, exposed, first, host)

    def _loads(self, placed: list[PlacementCost]) -> NDArray[np.int64]:
        loads = self._floating.copy()
        for cost in placed:
            loads += cost.load
        return loads

    @_remembering
    def placement_cost(self, name: str, choice: Choice) -> PlacementCost:
        """Return the cost of `name` under `choice`."""
        cost = self._on_gpu(name, choice)
        if not self.shared:
            return cost
        # Also of weights that leave no copy behind: torch gives back what they took only after they were copied.
        return cost._replace(load=cost.load + cost.host.total)

    def _on_gpu(self, name: str, choice: Choice) -> PlacementCost:
        """Return the cost of `name` under `choice`, with the load on the GPU alone."""
        component = self._components[name]
        where = STAYS if name in self.fixed else choice.where
        host = self._host_bytes(name, choice.inside, choice.swap, where)
        if choice.inside is None:
            whole = self._whole[name, where]
            return self._with_whole(whole, component.bytes, choice.swap, host, sound=whole.sound)
        travelling = self._inside(name, choice.inside)
        if where == SPLIT:
            return travelling._replace(host=host)
        assert choice.inside.leaves_rest, choice
        size = self._rest(name, choice.inside)
        whole = self._whole[name, where].of_size(size)
        swap = DROP if EVICTIONS[choice.swap].copies_back else choice.swap  # the host has its copy
        sound = travelling.sound and not whole.is_cast
        cost = self._with_whole(whole, size.moved_bytes, swap, host, sound=sound)
        return cost._replace(
            h2d_bytes=cost.h2d_bytes + travelling.h2d_bytes,
            exposed_nanoseconds=cost.exposed_nanoseconds + travelling.exposed_nanoseconds,
            first_nanoseconds=cost.first_nanoseconds
            + travelling.first_nanoseconds
            + _packing(host.pinned),
            load=cost.load + travelling.load,
        )

    def _with_whole(
        self, whole: WholeCost, nbytes: int, swap: str, host: HostBytes, *, sound: bool
    ) -> PlacementCost:
        link = self._link
        way = link.pinned if EVICTIONS[swap].pinned else link.pageable

        def moved(one: Moved) -> tuple[int, int, int]:
            back_bytes = one.d2h_bytes if EVICTIONS[swap].copies_back else one.cast_d2h_bytes
            return one.h2d_bytes, back_bytes, way(one.h2d_bytes) + link.back(back_bytes)

        up = down = exposed = 0
        for (_, times), one in zip(self._round, map(moved, whole.last), strict=True):
            up, down, exposed = up + times * one[0], down + times * one[1], exposed + times * one[2]
        placing = link.pageable(nbytes) if whole.placed else 0
        packing = _packing(host.pinned) if EVICTIONS[swap].pinned else 0
        return PlacementCost(
            up,
            down,
            exposed,
            placing + packing + moved(whole.first)[2],
            whole.load,
            host,
            sound,
        )

    @_remembering
    def _rest(self, name: str, inside: Placement) -> WeightSize:
        """Return the size of the part of a component that moves as a whole, besides what moves inside it."""
        return Weights(inside.rest(self._components[name])).size(None)

    @_remembering
    def _host_bytes(self, name: str, inside: Placement | None, swap: str, where: str) -> HostBytes:
        return host_bytes(self._components[name], inside, swap, stays=where == STAYS)

    @_remembering
    def _inside(self, name: str, inside: Placement) -> PlacementCost:
        """Return the cost of the weights that move during the component's forwards."""
        number = self.names.index(name)
        forwards = self._forwards[name]
        made = tuple(passes(self._components[name], number, forwards, inside, self._link))
        counted = list(zip(forwards.kinds, made, strict=True))
        last = [
            (sum(times * kind.times.get(call, 0) for call, times in self._round), one)
            for kind, one in counted
        ]
        first = [(kind.times.get(0, 0), one) for kind, one in counted]
        left_bytes = max((max(one.waiting_bytes, one.left_bytes) for one in made), default=0)
        load = [
            made[moment.spot.kind].loads[moment.spot.position]
            if moment.spot is not None and moment.spot.component == number
            else left_bytes
            for moment in self.moments
        ]
        return PlacementCost(
            sum(times * one.h2d_bytes for times, one in last),
            sum(times * one.d2h_bytes for times, one in last),
            sum(times * one.exposed_nanoseconds for times, one in last),
            sum(times * one.exposed_nanoseconds for times, one in first),
            np.array(load, dtype=np.int64),
            HostBytes(0, 0),
            all(one.sound for one in made),
        )

    def may_hook_inside(self, name: str) -> bool:
        """Tell whether hooks inside this component can be replayed.

        They can if its parts are known, none of its forwards is nested, and only hooks move it.
        """
        forwards = self._forwards[name]
        plain = forwards.known and not any(kind.nested for kind in forwards.kinds)
        return plain and bool(forwards.kinds) and not self._whole[name, STAYS].is_moved

    def is_cast(self, name: str) -> bool:
        """Tell whether the pipeline casts this component within a call."""
        return self._whole[name, STAYS].is_cast

    def entered_by_forward(self, name: str) -> bool:
        """Tell whether the component is entered only through its `forward`."""
        return all(kind.entry == "forward" for kind in self._forwards[name].kinds)


def evaluate(cost_table: CostTable, scheme: Scheme) -> SchemeTotals:
    """Return the totals of `scheme`, equal to what `simulate` logs."""
    return cost_table.totals(known_part(scheme, cost_table.names))


def choices_in(scheme: Scheme, names: tuple[str, ...]) -> dict[str, Choice]:
    """Return the placement of each component under `scheme`."""
    sequence, excluded, insides, swaps = (
        scheme.sequence,
        scheme.excluded,
        scheme.inside,
        scheme.swaps,
    )
    links = dict(zip(sequence, (*sequence[1:], UNEVICTED), strict=False))
    stays = STAYS if scheme.sticky or not scheme.hooked(names) else TRAVELS
    made = {}
    for name in names:
        inside = insides.get(name)
        if inside is not None and not inside.leaves_rest:
            made[name] = Choice(SPLIT, COPY, inside)
        elif name in links:
            made[name] = Choice(links[name], swaps.get(name, COPY), inside)
        elif name in excluded:
            made[name] = Choice(stays, COPY, inside)
        else:
            made[name] = Choice(UNEVICTED, swaps.get(name, COPY), inside)
    return made


def tabulate(workload: Workload, link: Link | None = None) -> CostTable:
    """Return the placement costs of every component of `workload`.

    Args:
        workload: The calls to plan for.
        link: The time that copies take; without it they take none.
    """
    size = len(workload.weights)
    calls = len(workload.calls) + _REPEATS * size
    last_round = range(calls - size, calls)
    ops = [op for call in range(calls) for op in workload.tape(call)]
    walk = Walk(workload, ops)
    whole = {}
    for part in workload.components:
        weights = Weights(part)
        others = (other for other in workload.names if other != part.name)
        for where in (TRAVELS, STAYS, UNEVICTED, *others):
            placed = STAYS if part.name in workload.fixed else where
            whole[part.name, where] = whole_cost(part.name, weights, placed, ops, last_round)
    moments = [
        moment for op, spots in zip(ops, walk.spots, strict=True) for moment in _moments(op, spots)
    ]
    kept = _collapse(moments, whole)
    return CostTable(
        workload.names,
        tuple(moments[index] for index in kept),
        workload.fixed,
        {part.name: part for part in workload.components},
        {name: walk.forwards(index) for index, name in enumerate(workload.names)},
        {key: one.at(kept) for key, one in whole.items()},
        link or UNKNOWN,
        tuple(zip(last_round, workload.weights, strict=True)),
    )


def _moments(op: Op, spots: tuple[Spot | None, ...]) -> Iterator[LoadMoment]:
    for stretch, spot in zip(op.gap, spots, strict=True):
        yield LoadMoment(stretch.peak_floating_bytes, op.event, spot)
    yield LoadMoment(op.peak_floating_bytes, op.event)


def _collapse(moments: list[LoadMoment], whole: dict[tuple[str, str], WholeCost]) -> list[int]:
    """Return the moments to keep: of all with equal loads, the one with the highest floating bytes."""
    best: dict[tuple[object, ...], int] = {}
    columns = np.array([one.load for one in whole.values()], dtype=np.int64)
    _, classes = np.unique(columns, axis=1, return_inverse=True)
    for index, (moment, alike) in enumerate(zip(moments, classes.ravel().tolist(), strict=True)):
        kept = best.setdefault((alike, moment.spot), index)
        if moment.floating_bytes > moments[kept].floating_bytes:
            best[alike, moment.spot] = index
    return sorted(best.values())


def _packing(pinned_bytes: int) -> int:
    return round(pinned_bytes / HOST_COPY_BYTES_PER_SECOND * NANOSECONDS)
