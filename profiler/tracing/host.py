"""Readers for what the tracer records besides the GPU's own memory: host memory, and how busy the link was.

For a virtual GPU the figures come from the model. For a real one, host memory is the resident set of the process at
each event (what came and went between two events is not seen), and torch's statistics of pinned memory; the time for
which the link was busy is not known.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_LINE_BYTES = 256  # longer than seven numbers


class HostNow(NamedTuple):
    """The host's memory.

    Attributes:
        pageable_bytes: pageable memory now; with a real GPU the resident set.
        pinned_bytes: page-locked memory now, including cached blocks.
        peak_bytes: the most of both together since the last reading.
        kept_bytes: both together now.
    """

    pageable_bytes: int
    pinned_bytes: int
    peak_bytes: int
    kept_bytes: int


class LinkSince(NamedTuple):
    """The copy times since the last reading.

    Attributes:
        busy_seconds: the time for which copies ran, both directions added up.
        exposed_seconds: the delay that they caused to the default stream.
    """

    busy_seconds: float
    exposed_seconds: float


def modelled_host(gpu: Device) -> Callable[[], HostNow]:
    """Return a function that reads the memory of a virtual GPU's host."""
    host = gpu.host

    def modelled() -> HostNow:
        peak = host.take_peak()
        return HostNow(host.pageable_bytes, host.pinned_bytes, peak, host.total_bytes)

    return modelled


def measured_host() -> Callable[[], HostNow]:
    """Return a function that reads the host's memory: the resident set, and pinned blocks, including cached ones."""
    resident = _resident_set()

    def measured() -> HostNow:
        resident_bytes = resident()
        stats = torch.cuda.memory.host_memory_stats_as_nested_dict()
        pinned_bytes = int(stats["allocated_bytes"]["current"]) if stats else 0
        return HostNow(resident_bytes, pinned_bytes, resident_bytes, resident_bytes)

    return measured


def _resident_set() -> Callable[[], int]:
    """Return a function that reads the resident set of this process, in bytes."""
    try:
        return _StatM()
    except OSError:
        import psutil

        process = psutil.Process()
        return lambda: int(process.memory_info().rss)


class _StatM:
    """Reader of Linux's own file, kept open: psutil opens it each time, which takes as long as all else at an event.

    Source: proc_pid_statm(5), whose second number is the resident set in pages.
    """

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def __call__(self) -> int:
        return int(os.pread(self._file, _LINE_BYTES, 0).split()[1]) * self._page_bytes


def modelled_link(gpu: Device) -> Callable[[], LinkSince]:
    """Return a function that reads how busy a virtual GPU's link was."""
    clock = gpu.clock
    before = [sum(clock.link_seconds), clock.exposed_seconds()]

    def modelled() -> LinkSince:
        now = [sum(clock.link_seconds), clock.exposed_seconds()]
        since = LinkSince(now[0] - before[0], now[1] - before[1])
        before[:] = now
        return since

    return modelled
