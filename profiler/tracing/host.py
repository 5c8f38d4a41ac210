"""What the tracer reads besides the card's own memory: the host's memory, and how busy the link was.

On a virtual card the model answers. On a real one the host's memory is the resident set of the process as the system
has it at each event (what came and went between two events is not seen), and torch's statistics of pinned memory; how
long the link was busy is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from profiler.virtual.gpu import VirtualGPU


class HostNow(NamedTuple):
    """The host's memory.

    Attributes:
        pageable_bytes: pageable memory now; on a real card the resident set.
        pinned_bytes: page-locked memory now, cached blocks included.
        peak_bytes: the most of both together since the last reading.
        kept_bytes: both together now.
    """

    pageable_bytes: int
    pinned_bytes: int
    peak_bytes: int
    kept_bytes: int


class LinkSince(NamedTuple):
    """What copies took since the last reading.

    Attributes:
        busy_seconds: how long copies ran, both ways added up.
        exposed_seconds: by how much they delayed the default stream.
    """

    busy_seconds: float
    exposed_seconds: float


def modelled_host(gpu: VirtualGPU) -> Callable[[], HostNow]:
    """Return a function that reads the memory of a virtual card's host."""
    host = gpu.host

    def modelled() -> HostNow:
        peak = host.take_peak()
        return HostNow(host.pageable_bytes, host.pinned_bytes, peak, host.total_bytes)

    return modelled


def measured_host() -> Callable[[], HostNow]:
    """Return a function that reads the host's memory: the resident set, and torch's pinned blocks, cached ones too."""
    import psutil

    process = psutil.Process()

    def measured() -> HostNow:
        resident_bytes = int(process.memory_info().rss)
        stats = torch.cuda.memory.host_memory_stats_as_nested_dict()
        pinned_bytes = int(stats["allocated_bytes"]["current"]) if stats else 0
        return HostNow(resident_bytes, pinned_bytes, resident_bytes, resident_bytes)

    return measured


def modelled_link(gpu: VirtualGPU) -> Callable[[], LinkSince]:
    """Return a function that reads how busy a virtual card's link was."""
    clock = gpu.clock
    before = [sum(clock.link_seconds), clock.exposed_seconds()]

    def modelled() -> LinkSince:
        now = [sum(clock.link_seconds), clock.exposed_seconds()]
        since = LinkSince(now[0] - before[0], now[1] - before[1])
        before[:] = now
        return since

    return modelled
