"""The entries of torch's memory history for a virtual GPU: what the caching allocator did, one by one.

The allocator calls a `History` only while it records. Each entry is noted after the
figures have changed. Frames are left empty: a replayed forward has no Python code that made the request.

Source: `recordHistory`, `record_trace` and `snapshot` in PyTorch's c10/cuda/CUDACachingAllocator.cpp and the keys in
torch/csrc/cuda/memory_snapshot.cpp, in copies that have the arguments and keys of torch 2.13.0 (`skip_actions`,
`user_metadata`, `pool_id`); the actions in the header c10/core/CachingDeviceAllocator.h of 2.13.0 itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from profiler.allocator import report as allocator_report
from profiler.allocator.caching import Allocator
from profiler.allocator.clock import Clock
from profiler.allocator.settings import UNLIMITED, VARIABLES, Settings

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


class TraceEntry(NamedTuple):
    """One action of the allocator.

    Attributes:
        action: one of `ACTIONS`.
        address: its address; for `oom` the bytes that the driver has free, for `snapshot` 0.
        size: for a block the bytes requested, for a segment or its pages the full size, for `oom` the rounded request,
            for `snapshot` the bytes in active blocks.
        stream: the stream of the block.
        time_us: microseconds on the virtual GPU's host clock; torch has those of the Unix epoch.
        metadata: the metadata that was set at that time.
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
        metadata: attached to every entry from now on.
    """

    def __init__(self, allocator: Allocator, clock: Clock) -> None:
        self.metadata = ""
        self._allocator = allocator
        self._clock = clock
        self._entries: deque[TraceEntry] = deque()
        self._skipped: frozenset[str] = frozenset()

    @property
    def recording(self) -> bool:
        """True while it records."""
        return self._allocator.note is not None

    def note(self, action: str, address: int, size: int, stream: int) -> None:
        """Append an entry for what was done."""
        if action not in self._skipped:
            now_us = int(self._clock.host * 1e6)
            self._entries.append(TraceEntry(action, address, size, stream, now_us, self.metadata))

    def record(
        self, enabled: str | None, *, most: int, clear: bool, skipped: Sequence[str]
    ) -> None:
        """Start, continue with other settings, or stop and discard everything.

        Args:
            enabled: "all", or "state", which keeps the last entry only; None to stop.
            most: the number of entries that are kept, the last ones.
            clear: whether to discard the earlier ones.
            skipped: actions that are not recorded.
        """
        self._skipped = frozenset(skipped)
        kept: deque[TraceEntry] = deque() if clear or enabled is None else self._entries
        self._entries = deque(kept, maxlen=max(most if enabled == "all" else 1, 1))
        note = None if enabled is None else self.note
        self._allocator.note = self._allocator.segments.note = note

    def segments(self) -> list[dict[str, Any]]:
        """Return what `torch.cuda.memory_snapshot` returns, and note that a snapshot was taken."""
        found = allocator_report.snapshot(self._allocator)
        if self.recording:
            self.note("snapshot", 0, sum(segment["active_size"] for segment in found), 0)
        return found

    def snapshot(self) -> dict[str, Any]:
        """Return what `torch.cuda.memory._snapshot` returns, except for settings that are not modelled."""
        traces = [[_plain(entry) for entry in self._entries]]
        return {
            "segments": self.segments(),
            "device_traces": traces,
            "allocator_settings": _settings(self._allocator.settings),
            "external_annotations": [],
        }


def _plain(entry: TraceEntry) -> dict[str, Any]:
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
