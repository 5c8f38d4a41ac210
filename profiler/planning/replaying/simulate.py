"""Simulation of the event log of accelerate's model-offload hooks under any plan, without running anything.

`simulate` does to a `Workload` what the hooks would do to the pipeline, event by event. The rules (accelerate 1.15
`hooks.CpuOffload` and `big_modeling.cpu_offload_with_hook`; diffusers 0.42
`DiffusionPipeline.enable_model_cpu_offload` and `maybe_free_model_hooks`):

- A hook evicts its predecessor first, even if its own component is already on the GPU; every eviction empties the
  cache.
- A component is moved if the first of its parameters is not on the GPU.
- A component outside the sequence has a hook without a predecessor, and is no hook's predecessor.
- At the end of a call, stock diffusers enables offload again: every component goes to the CPU, in the order of the
  names, then the excluded ones return; if nothing carries a hook, it does nothing. A sticky plan only offloads the
  components that carry a hook.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.placements.acts import GPU, META, OFFLOAD, ONLOAD
from profiler.placements.group_structure import ROOT
from profiler.placements.scheme import known_part
from profiler.placements.table import drops_its_copy, whole_part
from profiler.placements.weights import weights_of
from profiler.planning.replaying.workload import FREE, HOOK_ASKER
from profiler.record.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from profiler.placements.acts import Act
    from profiler.placements.scheme import Scheme
    from profiler.planning.replaying.tape import Op, Stretch
    from profiler.planning.replaying.workload import Workload

DROPPED = "meta"
"""Destination of an offload that moves nothing, since the host has a copy."""

ENABLE_ASKER = "pipeline.enable_model_cpu_offload"
FREE_ASKER = "pipeline.maybe_free_model_hooks"

_SET_UP = Event(
    ordinal=0,
    call=-1,
    kind="",
    component="",
    group="",
    entry="",
    bytes=0,
    dtype="",
    from_device="",
    to_device="",
    stream=0,
    phase="place",
    step=-1,
    asked_by="",
    lead_peak_bytes=0,
    before_bytes=0,
    peak_bytes=0,
    after_bytes=0,
    reserved_bytes=0,
    resident_bytes=0,
    start_seconds=0.0,
    seconds=0.0,
)
"""An event of the set-up; `_Machine._append` fills in the figures."""

NOT_REPLAYED: dict[str, Any] = {
    "reserved_bytes": 0,
    "start_seconds": 0.0,
    "seconds": 0.0,
    "host_pageable_bytes": 0,
    "host_pinned_bytes": 0,
    "host_peak_bytes": 0,
    "transfer_seconds": 0.0,
    "exposed_transfer_seconds": 0.0,
    "inside": -1,
}
"""Fields that a replay does not compute: of the cache, the clock, the host's memory, and the parts."""


def simulate(workload: Workload, scheme: Scheme, *, calls: int | None = None) -> list[Event]:
    """Return the events of setting up `scheme` on a pipeline that is on the CPU, then of its calls.

    Args:
        workload: The recorded calls; after them the last one repeats.
        scheme: The plan to replay.
        calls: The number of calls; None for as many as were recorded.
    """
    machine = _Machine(workload, scheme)
    machine.set_up()
    for call in range(len(workload.calls) if calls is None else calls):
        for op in workload.tape(call):
            machine.run(op)
    return machine.events


@dataclass
class _State:
    on_gpu: bool = False
    cast: str | None = None
    cast_on_gpu: bool = False  # since it was onloaded: the host's copy differs


class _Machine:
    """Simulation of the hooks of one pipeline; `events` is the log so far."""

    def __init__(self, workload: Workload, scheme: Scheme) -> None:
        self.events: list[Event] = []
        self._scheme = scheme = known_part(scheme, workload.names)
        self._device = workload.device
        self._names = tuple(name for name in workload.names if name not in workload.fixed)
        self._components = workload.components
        self._weights = weights_of(whole_part(one, scheme) for one in workload.components)
        self._of_all = weights_of(workload.components)
        self._machines = {
            part.name: inside.machine(part)
            for part in workload.components
            if (inside := scheme.inside.get(part.name)) is not None
        }
        self._inside_bytes = dict.fromkeys(self._machines, 0)  # allocated on the GPU by each
        self._states = {name: _State() for name in workload.names}
        self._hooked = [name for name in scheme.hooked(self._names) if name in self._names]
        self._predecessors = scheme.predecessors()
        self._weight_bytes = 0
        self._floating_bytes = 0
        self._high_bytes = 0  # highest allocated since the last event's end

    def set_up(self) -> None:
        """Set up the hooks, as `enable_model_cpu_offload` does on a pipeline that is on the CPU."""
        for name in self._states:
            if name not in self._names:
                self._states[name].on_gpu = True
                self._weight_bytes += self._resident_bytes(name)
        self._high_bytes = self._weight_bytes
        if any(self._scheme.split(name) is None for name in self._names):
            self._empty_cache(_SET_UP, ENABLE_ASKER)
            self._bring_excluded(_SET_UP, ENABLE_ASKER)
        for name, machine in self._machines.items():
            self._act(_SET_UP, name, machine.set_up())

    def run(self, op: Op) -> None:
        """Simulate one operation of the workload, and whatever the hooks add to it."""
        for stretch in op.gap:
            self._pass(stretch, op.event)
        self._floating_bytes = op.before_floating_bytes
        event = op.event
        machine, part = self._machines.get(event.component), self._part_entered(event)
        if op.kind == "exit" and machine is not None and part is not None:
            self._act(event, event.component, machine.leave(part))
        if op.kind == FREE:
            self._free(event)
        elif op.kind == "cast":
            self._cast(event)
        elif op.kind in ("onload", "offload"):
            self._move(event, event.component, on=op.kind == "onload", asked_by=event.asked_by)
        else:
            self._append(
                event, peak_floating=op.peak_floating_bytes, after_floating=op.after_floating_bytes
            )
        self._floating_bytes = op.after_floating_bytes
        if op.fires and event.component in self._hooked:
            self._fire(event)
        if op.kind == "enter" and machine is not None and part is not None:
            self._act(event, event.component, machine.enter(part))

    def _part_entered(self, event: Event) -> int | None:
        """Return the part whose forward this entry is; None if there is none, or the component has no hooks inside."""
        if event.component not in self._machines or event.kind not in ("enter", "exit"):
            return None
        streamed = self._scheme.streamed(event.component) is not None
        if streamed and event.kind == "enter" and event.entry in ("encode", "decode"):
            return ROOT  # diffusers calls the component's own hook before these
        path = "" if event.entry == "forward" else event.entry
        parts = next(one.parts for one in self._components if one.name == event.component)
        return next((index for index, part in enumerate(parts) if part.path == path), None)

    def _pass(self, stretch: Stretch, at: Event) -> None:
        """Simulate the stretch between two events, with what hooks inside components add to it."""
        inside = stretch.inside
        if inside is None or not self._machines:
            peak_bytes = self._weight_bytes + stretch.peak_floating_bytes
            self._high_bytes = max(self._high_bytes, peak_bytes)
            return
        base_bytes = stretch.base_floating_bytes
        for visit in inside.visits:
            peak_bytes = self._weight_bytes + base_bytes + visit.peak_bytes
            self._high_bytes = max(self._high_bytes, peak_bytes)
            name = self._components[visit.component].name
            machine = self._machines.get(name)
            if machine is not None:
                self._floating_bytes = base_bytes + visit.allocated_bytes
                react = machine.enter if visit.entering else machine.leave
                self._act(at, name, react(visit.part))
        peak_bytes = self._weight_bytes + base_bytes + inside.peak_bytes
        self._high_bytes = max(self._high_bytes, peak_bytes)

    def _act(self, at: Event, name: str, acts: Iterable[Act]) -> None:
        """Log the operations of the hooks inside a component."""
        for act in acts:
            moved = act.tensors or act.stale or act.reported_bytes
            if act.kind not in (ONLOAD, OFFLOAD) or not moved:
                continue
            ways = ("cpu", self._device)
            if act.kind == OFFLOAD:
                ways = (self._device, DROPPED if act.dropped else "cpu")
            self._inside_bytes[name] += act.change_bytes
            self._append(
                _moment(at)._replace(
                    kind=act.kind,
                    component=name,
                    group=act.group,
                    bytes=act.reported_bytes,
                    dtype=self._of_all[name].dtype_of(
                        act.tensors, self._states[name].cast, uncast=act.stale
                    ),
                    from_device=ways[0],
                    to_device=ways[1],
                    asked_by=act.asked_by,
                ),
                weight_change=act.change_bytes,
                transient=act.transient_bytes,
            )

    def _fire(self, at: Event) -> None:
        predecessor = self._predecessors.get(at.component)
        if predecessor is not None and self._states[predecessor].on_gpu:
            self._move(at, predecessor, on=False, asked_by=HOOK_ASKER)
            self._empty_cache(at, HOOK_ASKER)
        self._move(at, at.component, on=True, asked_by=HOOK_ASKER)

    def _free(self, at: Event) -> None:
        if self._scheme.sticky:
            for name in self._hooked:
                self._move(at, name, on=False, asked_by=FREE_ASKER)
            self._empty_cache(at, FREE_ASKER)
            return
        if not self._hooked:
            return
        for name in sorted(self._names):
            self._move(at, name, on=False, asked_by=FREE_ASKER)
        self._empty_cache(at, FREE_ASKER)
        self._bring_excluded(at, FREE_ASKER)

    def _bring_excluded(self, at: Event, asked_by: str) -> None:
        for name in self._names:
            if name in self._scheme.excluded:
                self._move(at, name, on=True, asked_by=asked_by)

    def _move(self, at: Event, name: str, *, on: bool, asked_by: str) -> None:
        if not on:
            self._settle(at, name)
        state = self._states[name]
        size = self._weights[name].size(state.cast)
        if state.on_gpu == on or not size.moved_bytes:
            state.on_gpu = on
            return
        state.on_gpu = on
        drops = not on and drops_its_copy(self._scheme, name)
        moved = size.moved_bytes
        if drops:
            moved = self._weights[name].floating_bytes(state.cast) if state.cast_on_gpu else 0
        state.cast_on_gpu = False
        devices = ("cpu", self._device) if on else (self._device, "cpu" if moved else DROPPED)
        self._append(
            _moment(at)._replace(
                kind="onload" if on else "offload",
                component=name,
                bytes=moved,
                dtype=size.dtype,
                from_device=devices[0],
                to_device=devices[1],
                asked_by=asked_by,
            ),
            weight_change=size.allocated_bytes if on else -size.allocated_bytes,
        )

    def _settle(self, at: Event, name: str) -> None:
        """Free streamed blocks that were fetched and not called."""
        machine = self._machines.get(name)
        if machine is not None:
            self._act(at, name, machine.settle())

    def _cast(self, at: Event) -> None:
        if self._scheme.split(at.component) is not None:
            self._cast_split(at)
            return
        state, weights = self._states[at.component], self._weights[at.component]
        changed = weights.changed_bytes(state.cast, at.dtype)
        if not changed:
            return
        old, new = weights.size(state.cast), weights.size(at.dtype)
        extra = weights.cast_extra_bytes(state.cast, at.dtype) if state.on_gpu else 0
        state.cast = at.dtype
        state.cast_on_gpu |= state.on_gpu
        device = self._device if state.on_gpu else "cpu"
        self._append(
            at._replace(bytes=changed, from_device=device, to_device=device),
            weight_change=new.allocated_bytes - old.allocated_bytes if state.on_gpu else 0,
            transient=extra,
        )

    def _cast_split(self, at: Event) -> None:
        """Cast a split component, whose weights are wherever its hooks left them."""
        act = self._machines[at.component].cast(at.dtype)
        self._states[at.component].cast = at.dtype
        if not act.tensors:
            return
        device = {GPU: self._device, META: "meta"}.get(act.source, "cpu")
        self._inside_bytes[at.component] += act.change_bytes
        self._append(
            at._replace(bytes=act.reported_bytes, from_device=device, to_device=device),
            weight_change=act.change_bytes,
            transient=act.transient_bytes,
        )

    def _empty_cache(self, at: Event, asked_by: str) -> None:
        self._append(_moment(at)._replace(kind="empty_cache", asked_by=asked_by))

    def _append(
        self,
        event: Event,
        *,
        weight_change: int = 0,
        transient: int = 0,
        peak_floating: int = 0,
        after_floating: int | None = None,
    ) -> None:
        """Log `event` with the memory figures of this moment, and account for what it changes."""
        before = self._weight_bytes + self._floating_bytes
        peak = max(before + transient, self._weight_bytes + peak_floating)
        self._weight_bytes += weight_change
        if after_floating is not None:
            self._floating_bytes = after_floating
        after = self._weight_bytes + self._floating_bytes
        self.events.append(
            event._replace(
                ordinal=len(self.events),
                lead_peak_bytes=max(self._high_bytes, before),
                before_bytes=before,
                peak_bytes=max(peak, after),
                after_bytes=after,
                resident_bytes=self._resident_bytes(event.component) if event.component else 0,
                **NOT_REPLAYED,
            )
        )
        self._high_bytes = after

    def _resident_bytes(self, name: str) -> int:
        inside_bytes = self._inside_bytes.get(name, 0)
        state = self._states[name]
        if not state.on_gpu:
            return inside_bytes
        return inside_bytes + self._weights[name].size(state.cast).allocated_bytes


def _moment(at: Event) -> Event:
    """Return an event of no kind at the call, phase and step of `at`."""
    return _SET_UP._replace(call=at.call, phase=at.phase, step=at.step)
