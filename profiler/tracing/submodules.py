"""Visits of submodules between two events: which ones are entered and left, and what is allocated then.

From them a replay can work out what group offload, sequential offload and streamed blocks would do, which act when a
submodule is entered and left. `predicted/submodules.py` and `measured/submodules.py` define which forwards are probed,
and with which clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from profiler.libraries.offload_state import INNER_ENTRIES
from profiler.patching import Patches
from profiler.record.components import Component
from profiler.record.events import Event, SubmoduleSpan, Visit
from profiler.tracing.reader import MemoryReader, Reading

_TIMED = Visit._fields.index("host_nanoseconds")  # from here on, values may differ slightly

ENTERED = ("", *INNER_ENTRIES)
"""Submodules whose entering is an event if their component is not running: itself, and those that pipelines call."""


class Stopwatch(Protocol):
    """Measures the progress of the host and the default stream since it was restarted, in nanoseconds."""

    def restart(self) -> None:
        """Count from here."""

    def since(self) -> tuple[int, int]:
        """Return the progress of the host and the default stream."""


class SubmoduleSpans:
    """Collects the visits of submodules, interval by interval.

    Args:
        reader: the memory reader.
        modules: components by name.
        stopwatch: reads time.

    Attributes:
        known: the intervals that differ in what was visited or allocated, in the order of their first occurrence.
        pending_peak_bytes: the peak since the last visit, as far as it was read.
    """

    def __init__(
        self, reader: MemoryReader, modules: Mapping[str, nn.Module], stopwatch: Stopwatch
    ) -> None:
        self.known: list[SubmoduleSpan] = []
        self.pending_peak_bytes = 0
        self._reader = reader
        self._modules = modules
        self._stopwatch = stopwatch
        self._places: WeakKeyDictionary[nn.Module, tuple[int, int, str]] = WeakKeyDictionary()
        self._indices: dict[Any, int] = {}
        self._visits: list[Visit] = []
        self._unknown = False  # whether submodules were visited whose data is not known
        self._base_bytes = 0
        self._peak_seen = 0

    def watch(
        self, patches: Patches, components: tuple[Component, ...], active: Container[str]
    ) -> None:
        """Wrap the submodules that a hook of diffusers or accelerate may be attached to.

        Args:
            patches: takes what is replaced.
            components: the records of the modules.
            active: the names of the running components. One that is not running is entered by an event, not by a visit.
        """
        self._active = active
        for number, (module, component) in enumerate(
            zip(self._modules.values(), components, strict=True)
        ):
            submodules = dict(module.named_modules())
            lists = {part.path for part in component.parts if part.is_list}
            blocks = {block.name for block in component.blocks}
            for index, part in enumerate(component.parts):
                within, _, name = part.path.rpartition(".")
                entered = part.path in ENTERED
                listed = within in lists or part.path in blocks
                block = listed or name in component.block_modules
                if entered or block or part.is_leaf or part.parameters or part.buffers:
                    place = (number, index, component.name if entered else "")
                    self._places.setdefault(submodules[part.path], place)
        if self._places:
            self._stand(patches)
        self.begin(self._reader.allocated())

    def unwatch(self) -> None:
        """Stop watching whatever `patches` does not restore."""

    def entering(self, component: str, entry: str, arguments: tuple[Any, ...]) -> None:
        """Note that a component was entered with these arguments."""

    def leaving(self, component: str) -> None:
        """Note that a component was left."""

    def _stand(self, patches: Patches) -> None:
        """Wrap the calls of the submodules."""
        patches.replace(nn.Module, "_call_impl", self._calling(nn.Module._call_impl))

    def begin(self, base_bytes: int) -> None:
        """Start an interval in which bytes count from `base_bytes`."""
        self._visits = []
        self._unknown = False
        self._base_bytes = base_bytes
        self._stopwatch.restart()
        self.pending_peak_bytes = 0

    def ended(self) -> SubmoduleSpan | None:
        """Return the interval that ends here; None if no submodule was visited in it, or not all are known."""
        if self._unknown or not self._visits:
            return None
        peak_bytes = self.pending_peak_bytes - self._base_bytes
        return SubmoduleSpan(tuple(self._visits), peak_bytes, *self._stopwatch.since())

    def keep(self, inside: SubmoduleSpan | None, ended_by: tuple[str, str]) -> int:
        """Return the index of an interval; -1 for none.

        Args:
            inside: the return value of `ended`.
            ended_by: kind and component of the event that ended it.
        """
        if inside is None:
            return -1
        alike = (inside.peak_bytes, *(visit[:_TIMED] for visit in inside.visits))
        index = self._indices.setdefault(alike, len(self.known))
        if index == len(self.known):
            self.known.append(inside)
        return index

    def settled(self, events: list[Event]) -> list[Event]:
        """Return the events of the whole trace with the intervals that are certain, and complete `known`."""
        return events

    # -- readings

    def read(self) -> Reading:
        """Read memory, also for the current interval."""
        read = self._reader.take()
        self.pending_peak_bytes = max(self.pending_peak_bytes, read.peak_bytes)
        return read

    def take_peak_of_visits(self) -> int:
        """Return the highest allocated bytes that visits have read since the last call."""
        peak, self._peak_seen = self._peak_seen, 0
        return peak

    def _calling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        places = self._places

        def _call_impl(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            place = places.get(module)
            if place is None or (place[2] and place[2] not in self._active):
                return original(module, *args, **kwargs)
            component, part, _ = place
            self._visit(component, part, 1)
            try:
                return original(module, *args, **kwargs)
            finally:
                self._visit(component, part, 0)

        return _call_impl

    def _visit(self, component: int, part: int, entering: int) -> None:
        read = self._reader.take()
        peak = max(read.peak_bytes, self.pending_peak_bytes)
        self._peak_seen = max(self._peak_seen, peak)
        self.pending_peak_bytes = 0
        base, allocated = self._base_bytes, read.allocated_bytes
        self._visits.append(
            Visit(
                component, part, entering, peak - base, allocated - base, *self._stopwatch.since()
            )
        )
