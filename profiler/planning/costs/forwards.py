"""The forwards of a workload's components, and the cost of each if weights move during it.

A component that is entered once a step mostly does the same each time: forwards whose parts do the same are of one
kind, and each kind is simulated once. A component's first forward is a kind of its own, since hooks learn from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from profiler.placements.acts import OFFLOAD, ONLOAD
from profiler.planning.costs.overlap import Overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from profiler.placements.acts import Act
    from profiler.placements.placement import Machine
    from profiler.placements.placement import Placement as Way
    from profiler.planning.costs.link import Link
    from profiler.planning.replaying.tape import Op, Stretch
    from profiler.planning.replaying.workload import Workload
    from profiler.record.components import Component
    from profiler.record.events import SubmoduleSpan, Visit


class Spot(NamedTuple):
    """A stretch inside a forward, by kind and position, at which the load of a split component changes."""

    component: int
    kind: int
    position: int


@dataclass
class Forward:
    """One kind of forward."""

    entry: str
    nested: bool  # whether it ran inside another component's, or another one inside it
    fires: bool
    cast: str | None = None  # the dtype of the component's last cast before it
    casts: tuple[str, ...] = ()  # dtypes of the casts since its previous forward
    stretches: list[Stretch] = field(default_factory=list)
    times: dict[int, int] = field(default_factory=dict)  # number of occurrences, by call
    entered_floating_bytes: int = 0
    left_floating_bytes: int = 0
    _thinned: list[Stretch] | None = None

    def thinned(self, component: int, parts: frozenset[int]) -> list[Stretch]:
        """Return the stretches with the visits of these parts only; every request must name the same parts."""
        if self._thinned is None:
            self._thinned = [
                stretch._replace(inside=_thin(stretch.inside, component, parts))
                for stretch in self.stretches
            ]
        return self._thinned


@dataclass(frozen=True)
class Forwards:
    """All kinds of forwards of one component, its first forward first."""

    kinds: tuple[Forward, ...]
    known: bool  # whether the record shows what the parts did in all of them


class Pass(NamedTuple):
    """The cost of one kind of forward if weights move during it."""

    loads: tuple[
        int, ...
    ]  # by stretch: the rise of its peak above that without any of these weights
    waiting_bytes: int  # highest on the GPU since the previous forward, or set-up
    left_bytes: int  # still on the GPU when it is over
    exposed_nanoseconds: int
    h2d_bytes: int
    d2h_bytes: int
    sound: bool  # whether every part had its tensors on the GPU


class Walk:
    """A search for the forwards in a list of operations."""

    def __init__(self, workload: Workload, ops: list[Op]) -> None:
        names = {name: index for index, name in enumerate(workload.names)}
        self.spots: list[
            tuple[Spot | None, ...]
        ] = []  # by operation: the spot of each stretch of its gap
        self._kinds: list[dict[object, int]] = [{} for _ in names]
        self._forwards: list[list[Forward]] = [[] for _ in names]
        self._known = [True] * len(names)
        self._cast: list[str | None] = [None] * len(names)
        self._casts: list[list[str]] = [[] for _ in names]
        self._open: list[tuple[int, Forward, list[tuple[int, int]]]] = []
        for number, op in enumerate(ops):
            self.spots.append((None,) * len(op.gap))
            self._gap(number, op)
            index = names.get(op.event.component, -1)
            if op.kind == "enter":
                forward = self._entered(op, index)
                forward.entered_floating_bytes = op.after_floating_bytes
                for _, outer, _ in self._open:
                    outer.nested = True
                self._open.append((index, forward, []))
            elif op.kind == "exit":
                self._close(op, index)
            elif op.kind == "cast":
                self._recast(op, index)

    def forwards(self, component: int) -> Forwards:
        """Return the forwards of one component."""
        return Forwards(tuple(self._forwards[component]), self._known[component])

    def _entered(self, op: Op, index: int) -> Forward:
        casts, self._casts[index] = tuple(self._casts[index]), []
        return Forward(op.event.entry, bool(self._open), op.fires, self._cast[index], casts)

    def _recast(self, op: Op, index: int) -> None:
        self._cast[index] = op.event.dtype
        self._casts[index].append(op.event.dtype)
        if any(index == running for running, _, _ in self._open):
            self._known[index] = False

    def _gap(self, number: int, op: Op) -> None:
        if not self._open:
            return
        index, forward, places = self._open[-1]
        for position, stretch in enumerate(op.gap):
            places.append((number, position))
            forward.stretches.append(stretch)
            if stretch.inside is None and not _is_empty(op, position):
                self._known[index] = False

    def _close(self, op: Op, index: int) -> None:
        place = next(i for i in reversed(range(len(self._open))) if self._open[i][0] == index)
        _, forward, places = self._open.pop(place)
        forward.left_floating_bytes = op.before_floating_bytes
        first = not self._forwards[index]
        insides = tuple(id(stretch.inside) for stretch in forward.stretches)
        key = (first, forward.entry, forward.nested, forward.cast, forward.casts, insides)
        kind = self._kinds[index].setdefault(key, len(self._forwards[index]))
        if kind == len(self._forwards[index]):
            self._forwards[index].append(forward)
        times = self._forwards[index][kind].times
        times[op.event.call] = times.get(op.event.call, 0) + 1
        for position, (number, stretch) in enumerate(places):
            spots = list(self.spots[number])
            spots[stretch] = Spot(index, kind, position)
            self.spots[number] = tuple(spots)


def _is_empty(op: Op, position: int) -> bool:
    """Tell whether the stretch lies between events of hooks, where no part can have run."""
    return position < len(op.gap) - 1 or op.kind != "exit"


def passes(
    component: Component, number: int, forwards: Forwards, way: Way, link: Link
) -> Iterator[Pass]:
    """Yield the cost of each kind of forward if `component`, the `number`-th, is split or streamed in this way."""
    machine, checked = way.machine(component), way.checked_parts(component)
    there_bytes = sum(act.change_bytes for act in machine.set_up())
    for forward in forwards.kinds:
        waiting_bytes = there_bytes
        for dtype in forward.casts or (forward.cast,):
            if dtype is not None:
                act = machine.cast(dtype)
                waiting_bytes = max(waiting_bytes, there_bytes + act.transient_bytes)
                there_bytes += act.change_bytes
        passing = _Passing(component, number, machine, link, there_bytes, checked)
        passed = passing.through(forward)._replace(waiting_bytes=waiting_bytes)
        there_bytes = passed.left_bytes
        yield passed


class _Passing:
    """Simulation of one forward with hooks inside."""

    def __init__(
        self,
        component: Component,
        number: int,
        machine: Machine,
        link: Link,
        there_bytes: int,
        checked: frozenset[int] | None,
    ) -> None:
        self._checked = checked
        self._parts, self._number, self._machine = component.parts, number, machine
        self._timeline = Overlap(link)
        self._own_bytes = there_bytes
        self._high_bytes = 0
        self._h2d_bytes = self._d2h_bytes = 0
        self._sound = True

    def through(self, forward: Forward) -> Pass:
        root = _root_part(self._parts, forward)
        stretches = forward.stretches
        if self._checked is not None:
            stretches = forward.thinned(self._number, self._checked)
        loads, ideal_nanoseconds = [], 0
        self._high_bytes = 0
        if root is not None:
            self._act(self._machine.enter(root), forward.entered_floating_bytes)
            self._check(root)
        for position, stretch in enumerate(stretches):
            ideal_nanoseconds += self._pass(stretch)
            if position == len(stretches) - 1 and root is not None:
                self._act(self._machine.leave(root), forward.left_floating_bytes)
            loads.append(self._high_bytes - stretch.peak_floating_bytes)
            self._high_bytes = 0
        return Pass(
            tuple(loads),
            0,
            self._own_bytes,
            max(self._timeline.nanoseconds - ideal_nanoseconds, 0),
            self._h2d_bytes,
            self._d2h_bytes,
            self._sound,
        )

    def _pass(self, stretch: Stretch) -> int:
        """Simulate a stretch, and return the nanoseconds it takes if all weights are on the GPU."""
        machine, timeline, inside = self._machine, self._timeline, stretch.inside
        if inside is None:
            self._raise(stretch.peak_floating_bytes)
            return 0
        base_bytes = stretch.base_floating_bytes
        timeline.begin_interval()
        for visit in inside.visits:
            self._raise(base_bytes + visit.peak_bytes)
            timeline.work(visit.host_nanoseconds, visit.stream_nanoseconds)
            if visit.component == self._number:
                react = machine.enter if visit.entering else machine.leave
                self._act(react(visit.part), base_bytes + visit.allocated_bytes)
                if visit.entering:
                    self._check(visit.part)
        self._raise(base_bytes + inside.peak_bytes)
        timeline.work(inside.host_nanoseconds, inside.stream_nanoseconds)
        return max(inside.host_nanoseconds, inside.stream_nanoseconds)

    def _raise(self, floating_bytes: int) -> None:
        self._high_bytes = max(self._high_bytes, self._own_bytes + floating_bytes)

    def _act(self, acts: Iterable[Act], floating_bytes: int) -> None:
        for act in acts:
            self._timeline.do(act)
            high_bytes = floating_bytes + self._own_bytes + act.transient_bytes
            self._high_bytes = max(self._high_bytes, high_bytes)
            self._own_bytes += act.change_bytes
            if act.kind == ONLOAD:
                self._h2d_bytes += act.reported_bytes
            elif act.kind == OFFLOAD:
                self._d2h_bytes += act.reported_bytes

    def _check(self, part: int) -> None:
        own = self._parts[part]
        self._sound &= self._machine.here((*own.parameters, *own.buffers))


def _thin(
    inside: SubmoduleSpan | None, component: int, parts: frozenset[int]
) -> SubmoduleSpan | None:
    if inside is None:
        return None
    kept: list[Visit] = []
    peak_bytes = _LOWEST
    for visit in inside.visits:
        peak_bytes = max(peak_bytes, visit.peak_bytes)
        if visit.component == component and visit.part in parts:
            kept.append(visit._replace(peak_bytes=peak_bytes))
            peak_bytes = _LOWEST
    return inside._replace(visits=tuple(kept), peak_bytes=max(peak_bytes, inside.peak_bytes))


_LOWEST = -(1 << 62)


def _root_part(parts: tuple[object, ...], forward: Forward) -> int | None:
    path = "" if forward.entry == "forward" else forward.entry
    return next((index for index, part in enumerate(parts) if part.path == path), None)  # type: ignore[attr-defined]
