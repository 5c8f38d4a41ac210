"""Memory at the probes of one forward on a real GPU, read in one of two ways; the cheaper one is preferred.

`Recording` has torch's allocator record what it does, and tells probes apart by the string that torch attaches to
each entry: a probe costs less than a launch, and what was allocated at it is worked out after the run. `ProbeReading`
reads torch's statistics at every probe, which costs as much as several launches: for an allocator that records
nothing, or if other code has torch record, or if the recording does not add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from profiler.allocator.history_replay import BlockReplay, segments_of, settings_of
from profiler.tracing.reader import MemoryReader


class Probe(NamedTuple):
    """The GPU's memory at a moment.

    Attributes:
        peak_bytes: the highest allocated bytes since the moment before.
        allocated_bytes: the bytes allocated now.
    """

    peak_bytes: int
    allocated_bytes: int


class ProbedForward(Protocol):
    """The probes of one forward."""

    def pass_moment(self, peak_bytes: int) -> int:
        """Return the number of this moment, from 0 on.

        Args:
            peak_bytes: the peak that other code has read since the moment before; 0 if none has.
        """

    def take_peak(self) -> int:
        """Return the peak read since the last call, which nothing else can read any more."""

    def end(self) -> None:
        """Stop probing. Safe to call twice."""

    def moments(self) -> list[Probe]:
        """Return the readings.

        Raises:
            DoesNotAddUpError: if they cannot be determined.
            InputError: if the allocator has settings that are not known.
        """


class ProbeReading:
    """Reads memory at every moment."""

    def __init__(self, reader: MemoryReader) -> None:
        self._reader = reader
        self._moments: list[Probe] = []
        self._highest = 0

    def pass_moment(self, peak_bytes: int) -> int:
        read = self._reader.take()
        moment = Probe(max(read.peak_bytes, peak_bytes), read.allocated_bytes)
        self._highest = max(self._highest, read.peak_bytes)
        self._moments.append(moment)
        return len(self._moments) - 1

    def take_peak(self) -> int:
        highest, self._highest = self._highest, 0
        return highest

    def end(self) -> None:
        """Do nothing: no recording is to be stopped."""

    def moments(self) -> list[Probe]:
        return self._moments


class Recording:
    """Has torch record. Earlier entries are dropped, so no other code may have it record (`can_record`)."""

    def __init__(self) -> None:
        self._device = torch.cuda.current_device()
        self._before = segments_of(torch.cuda.memory_snapshot(include_traces=False), self._device)
        self._passed = 0
        self._ended = False
        self._moments: list[Probe] | None = None
        self._snapshot: dict[str, Any] = {}
        self._label = torch.cuda.memory._set_memory_metadata
        self._users_label = torch.cuda.memory._get_memory_metadata()
        torch.cuda.memory._record_memory_history(
            "all", context=None, stacks="python", clear_history=True
        )
        self._label("0")

    def pass_moment(self, _: int) -> int:
        number = self._passed
        self._passed = number + 1
        self._label(str(self._passed))  # the number of moments before whatever comes now
        return number

    def take_peak(self) -> int:
        return 0

    def end(self) -> None:
        if not self._ended:
            self._snapshot = self._snapshot or torch.cuda.memory._snapshot()
            torch.cuda.memory._record_memory_history(enabled=None)
            self._label(self._users_label)
            self._ended = True

    def moments(self) -> list[Probe]:
        if self._moments is None:
            self._moments = self._worked_out()
            self._snapshot = {}
        return self._moments

    def _worked_out(self) -> list[Probe]:
        replay = BlockReplay(self._before, settings_of(self._snapshot))
        found: list[Probe] = []
        peak_bytes = replay.allocated_bytes

        def pass_until(count: int) -> None:
            nonlocal peak_bytes
            while len(found) < count:
                found.append(Probe(peak_bytes, replay.allocated_bytes))
                peak_bytes = replay.allocated_bytes

        for number, entry in enumerate(self._snapshot["device_traces"][self._device]):
            label = entry["user_metadata"]  # other threads do not set the labels
            pass_until(int(label) if label.isdecimal() else 0)
            replay.follow(number, entry)
            peak_bytes = max(peak_bytes, replay.allocated_bytes)
        pass_until(self._passed)
        replay.check(segments_of(self._snapshot["segments"], self._device))
        return found


def can_record() -> bool:
    """Tell whether torch's allocator can record, and is not recording already."""
    return torch.cuda.get_allocator_backend() == "native" and not torch._C._cuda_isHistoryEnabled()
