"""What the parts of components do between two events: who is entered and left, and what is allocated then.

From it a replay can tell what group offload, sequential offload and streamed blocks would do, which act where a part
is entered and left. A forward that was replayed enters no part: what its run did stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from profiler.patching import Patches
from profiler.profile import Component, Inside, Visit
from profiler.tracing.hooks import INNER_ENTRIES
from profiler.tracing.memory import Gauge
from profiler.virtual.replay import Call

_NANOSECONDS = 10**9
_TIMED = Visit._fields.index("host_nanoseconds")  # from here on, fields that differ by a hair

ENTERED = ("", *INNER_ENTRIES)
"""Parts whose entering is an event where their component is not running: itself, and those that pipelines call."""


class Insides:
    """Collects the visits of parts, interval by interval.

    Attributes:
        known: the intervals that differ in what was visited or allocated, in the order of their first times.
        pending_peak_bytes: highest allocated since the last visit, as far as it was read.
    """

    def __init__(self, gauge: Gauge, modules: dict[str, nn.Module]) -> None:
        self.known: list[Inside] = []
        self.pending_peak_bytes = 0
        self._gauge = gauge
        self._modules = modules
        self._places: dict[int, tuple[int, int, str]] = {}
        self._indices: dict[Any, int] = {}
        self._visits: list[Visit] = []
        self._calls: WeakKeyDictionary[Call, tuple[tuple[Visit, ...], int]] = WeakKeyDictionary()
        self._forwards: list[tuple[int, int, tuple[int, int, int]]] = []
        self._unknown = False  # whether parts were visited that cannot be told
        self._base_bytes = 0
        self._began = (0.0, 0.0)
        self._peak_seen = 0

    def watch(
        self, patches: Patches, components: tuple[Component, ...], active: Container[str]
    ) -> None:
        """Stand at the parts that a hook of diffusers or accelerate may hang on.

        Args:
            patches: takes what is replaced.
            components: the records of the modules.
            active: the names of those that are running. Who is not is entered by an event, not by a visit.
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
                    self._places.setdefault(id(submodules[part.path]), place)
        if self._places:
            patches.replace(nn.Module, "_call_impl", self._calling(nn.Module._call_impl))
            self._gauge.watch_replay(self)
        self.begin(self._gauge.allocated())

    def unwatch(self) -> None:
        """Listen no more to what is replayed."""
        self._gauge.watch_replay(None)

    def begin(self, base_bytes: int) -> None:
        """Begin an interval in which bytes count from `base_bytes`."""
        self._visits = []
        self._unknown = False
        self._base_bytes = base_bytes
        self._began = self._gauge.ideally()
        self.pending_peak_bytes = 0

    def ended(self) -> int:
        """Return the index of the interval that ends here; -1 if no part was visited in it, or not all are known."""
        if self._unknown or not self._visits:
            return -1
        peak_bytes = self.pending_peak_bytes - self._base_bytes
        alike = (peak_bytes, *(visit[:_TIMED] for visit in self._visits))
        index = self._indices.setdefault(alike, len(self.known))
        if index == len(self.known):
            self.known.append(Inside(tuple(self._visits), peak_bytes, *self._since()))
        return index

    # -- forwards that may be replayed

    def begins(self, call: Call) -> None:
        """A forward begins: what it does is to be told from what was before."""
        self.read_peak()
        now = self._gauge.allocated() - self._base_bytes, *self._since()
        self._forwards.append((len(self._visits), self.pending_peak_bytes, now))
        self.pending_peak_bytes = 0

    def ran(self, call: Call) -> None:
        """It ended: what its parts did is what those of its replays would do."""
        self.read_peak()
        start, before_bytes, now = self._forwards.pop()
        visits = tuple(_counted_from(now, visit) for visit in self._visits[start:])
        tail_bytes = self.pending_peak_bytes - self._base_bytes - now[0]
        self._calls[call] = visits, tail_bytes
        self._join(start, before_bytes)

    def replayed(self, call: Call) -> None:
        """It was left out: put in what its run's parts did."""
        self._peak_seen = max(self._peak_seen, self._gauge.take_peak())
        start, before_bytes, now = self._forwards.pop()
        if call not in self._calls:  # it ran before the trace began
            self._unknown = True
        visits, tail_bytes = self._calls.get(call, ((), 0))
        back = (-now[0], -now[1], -now[2])
        self._visits += [_counted_from(back, visit) for visit in visits]
        self.pending_peak_bytes = self._base_bytes + now[0] + tail_bytes
        self._join(start, before_bytes)

    def failed(self, call: Call) -> None:
        """It did not get to its end: where it was left out, nobody knows how far its parts had come."""
        self._forwards.pop()
        self._unknown = True

    def _join(self, start: int, before_bytes: int) -> None:
        """Give the peak from before a forward to what came next."""
        if start == len(self._visits):
            self.pending_peak_bytes = max(self.pending_peak_bytes, before_bytes)
        else:
            first = self._visits[start]
            peak_bytes = max(first.peak_bytes, before_bytes - self._base_bytes)
            self._visits[start] = first._replace(peak_bytes=peak_bytes)

    # -- what is read

    def read_peak(self) -> int:
        """Take the peak since the last reading, for the interval as well."""
        peak = self._gauge.take_peak()
        self.pending_peak_bytes = max(self.pending_peak_bytes, peak)
        return peak

    def take_peak_of_visits(self) -> int:
        """Return the highest allocated bytes that visits have read since the last call."""
        peak, self._peak_seen = self._peak_seen, 0
        return peak

    def _calling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        places = self._places

        def _call_impl(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            place = places.get(id(module))
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
        peak = max(self._gauge.take_peak(), self.pending_peak_bytes)
        self._peak_seen = max(self._peak_seen, peak)
        self.pending_peak_bytes = 0
        base = self._base_bytes
        allocated = self._gauge.allocated()
        self._visits.append(
            Visit(component, part, entering, peak - base, allocated - base, *self._since())
        )

    def _since(self) -> tuple[int, int]:
        host, stream = self._gauge.ideally()
        return (
            round((host - self._began[0]) * _NANOSECONDS),
            round((stream - self._began[1]) * _NANOSECONDS),
        )


def _counted_from(start: tuple[int, int, int], visit: Visit) -> Visit:
    """Return `visit` with bytes and times that count from a later start."""
    allocated_bytes, host_nanoseconds, stream_nanoseconds = start
    return visit._replace(
        peak_bytes=visit.peak_bytes - allocated_bytes,
        allocated_bytes=visit.allocated_bytes - allocated_bytes,
        host_nanoseconds=visit.host_nanoseconds - host_nanoseconds,
        stream_nanoseconds=visit.stream_nanoseconds - stream_nanoseconds,
    )
