"""What the caching allocator did, entry by entry: torch's memory history of a virtual card.

The allocator tells a `History` only while it records; otherwise it has none to tell. Each entry is noted when the
figures have changed. Frames are left empty: a forward that is replayed has no Python that asked.

Source: `recordHistory`, `record_trace` and `snapshot` in PyTorch's c10/cuda/CUDACachingAllocator.cpp and the keys in
torch/csrc/cuda/memory_snapshot.cpp, in copies that have the arguments and keys of torch 2.13.0 (`skip_actions`,
`user_metadata`, `pool_id`); the actions in the header c10/core/CachingDeviceAllocator.h of 2.13.0 itself.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from profiler.virtual import allocator_report
from profiler.virtual.allocator import Allocator
from profiler.virtual.allocator_settings import UNLIMITED, VARIABLES, Settings
from profiler.virtual.clock import Clock

ACTIONS = (
    "alloc",
    "free_requested",
    "free_completed",
    "segment_alloc",
    "segment_free",
    "segment_map",
    "segment_unmap",
    "snapshot",
    "oom",
)


class Entry(NamedTuple):
    """One thing that the allocator did.

    Attributes:
        action: one of `ACTIONS`.
        address: where; of `oom` how many bytes the driver has free, of `snapshot` 0.
        size: of a block what was asked for, of a segment or its pages all of it, of `oom` the rounded request, of
            `snapshot` the bytes in active blocks.
        stream: the block's.
        time_us: microseconds of the virtual card's host, where torch has those of the Unix epoch.
        metadata: what was set as metadata at that time.
    """

    action: str
    address: int
    size: int
    stream: int
    time_us: int
    metadata: str


class History:
    """Records what one allocator does.

    Attributes:
        metadata: goes with every entry from now on.
    """

    def __init__(self, allocator: Allocator, clock: Clock) -> None:
        self.metadata = ""
        self._allocator = allocator
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._skipped: frozenset[str] = frozenset()

    @property
    def recording(self) -> bool:
        """Whether it records."""
        return self._allocator.history is self

    def note(self, action: str, address: int, size: int, stream: int) -> None:
        """Write down what was done."""
        if action not in self._skipped:
            now_us = int(self._clock.host * 1e6)
            self._entries.append(Entry(action, address, size, stream, now_us, self.metadata))

    def record(
        self, enabled: str | None, *, most: int, clear: bool, skipped: Sequence[str]
    ) -> None:
        """Begin, go on with other settings, or end, which forgets everything.

        Args:
            enabled: "all", or "state", which keeps the last entry only; None to end.
            most: how many entries are kept, the last ones.
            clear: whether to forget the earlier ones.
            skipped: actions that are not written down.
        """
        self._skipped = frozenset(skipped)
        kept: deque[Entry] = deque() if clear or enabled is None else self._entries
        self._entries = deque(kept, maxlen=max(most if enabled == "all" else 1, 1))
        told = None if enabled is None else self
        self._allocator.history = self._allocator.segments.history = told

    def segments(self) -> list[dict[str, Any]]:
        """Return what `torch.cuda.memory_snapshot` returns, and note that it was asked for."""
        found = allocator_report.snapshot(self._allocator)
        if self.recording:
            self.note("snapshot", 0, sum(segment["active_size"] for segment in found), 0)
        return found

    def snapshot(self) -> dict[str, Any]:
        """Return what `torch.cuda.memory._snapshot` returns, but for settings that are not modelled."""
        traces = [[_plain(entry) for entry in self._entries]]
        return {
            "segments": self.segments(),
            "device_traces": traces,
            "allocator_settings": _settings(self._allocator.settings),
            "external_annotations": [],
        }


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "action": entry.action,
        "device_free" if entry.action == "oom" else "addr": entry.address,
        "size": entry.size,
        "stream": entry.stream,
        "time_us": entry.time_us,
        "compile_context": "N/A",
        "user_metadata": entry.metadata,
        "pool_id": (0, 0),
        "frames": [],
    }


def _settings(settings: Settings) -> dict[str, Any]:
    said = (os.environ[name] for name in VARIABLES if name in os.environ)
    most = settings.max_split_bytes
    return {
        "PYTORCH_CUDA_ALLOC_CONF": next(said, ""),
        "max_split_size": -1 if most == UNLIMITED else most,
        "garbage_collection_threshold": settings.garbage_collection_threshold,
        "expandable_segments": settings.expandable_segments,
        "roundup_power2_divisions": {
            str(1 << index): count for index, count in enumerate(settings.divisions)
        },
    }


def functions(history: History) -> dict[str, Callable[..., Any]]:
    """Return the functions of `torch._C` behind `torch.cuda.memory`'s private ones, by name."""

    def record(  # torch's own parameters, given by position
        enabled: str | None,
        context: str | None,
        stacks: str,
        max_entries: int,
        clear_history: bool,
        compile_context: bool = False,
        global_record_annotations: bool = False,
        skip_actions: Sequence[str] = (),
    ) -> None:
        _check(enabled in (None, "state", "all"), "expected state to be 'state', 'all', or None")
        known = context in (None, "state", "alloc", "all")
        _check(known, "expected context to be 'state', 'alloc', 'all', or None")
        _check(stacks in ("python", "all"), "expected stacks to be 'python', or 'all'")
        for action in skip_actions:
            _check(action in ACTIONS, f"Unknown TraceEntry action: {action}")
        most = min(max_entries, sys.maxsize)
        history.record(enabled, most=most, clear=clear_history, skipped=skip_actions)

    def record_as_before(  # torch's own parameters, given by position
        enabled: bool,
        record_context: bool,
        max_entries: int,
        context_of_entries: bool,
        cpp_context: bool,
        clear_history: bool,
        *rest: Any,
    ) -> None:
        record("all" if enabled else None, None, "all", max_entries, clear_history, *rest)

    def set_metadata(metadata: str) -> None:
        history.metadata = metadata

    return {
        "_cuda_record_memory_history": record,
        "_cuda_record_memory_history_legacy": record_as_before,
        "_cuda_isHistoryEnabled": lambda: history.recording,
        "_cuda_memorySnapshot": lambda mempool_id: history.snapshot(),
        "_cuda_setMemoryMetadata": set_metadata,
        "_cuda_getMemoryMetadata": lambda: history.metadata,
    }


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)
