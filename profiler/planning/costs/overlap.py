"""Time inside a forward whose weights move: of the host, the compute stream, and the copy stream.

The same clocks as the virtual GPU's (`allocator/clock.py`), advanced part by part instead of operator by operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.gpus.cost_model import host_constant
from profiler.placements.acts import (
    COPIES_AWAIT_KERNELS,
    DISK,
    HOST_AWAITS_COPIES,
    HOST_AWAITS_KERNELS,
    KERNELS_AWAIT_COPIES,
    OFFLOAD,
    ONLOAD,
    PINNED,
)
from profiler.planning.costs.link import (
    DISK_BYTES_PER_SECOND,
    HOST_COPY_BYTES_PER_SECOND,
)
from profiler.units import NANOSECONDS

if TYPE_CHECKING:
    from profiler.placements.acts import Act
    from profiler.planning.costs.link import Link


HOOK_NANOSECONDS = round(host_constant("hook_seconds") * NANOSECONDS)
"""Host time of one hook that moves something; the virtual GPU's clock does not count it."""


class Overlap:
    """Completion time of the host and of each stream, in ns since the forward began."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._host = self._kernels = self._copies = 0
        self._seen = (0, 0)
        self._ideal = 0

    def work(self, host_nanoseconds: int, stream_nanoseconds: int) -> None:
        """Compute up to these times, which are those of an interval with all weights on the GPU, from its beginning."""
        host, stream = host_nanoseconds - self._seen[0], stream_nanoseconds - self._seen[1]
        begin = max(self._kernels, self._host)
        self._host += host
        self._kernels = max(begin + stream, self._host)
        self._seen = (host_nanoseconds, stream_nanoseconds)
        self._ideal = max(host_nanoseconds, stream_nanoseconds)

    def begin_interval(self) -> None:
        """Begin another interval: times count from here."""
        self._seen = (0, 0)

    def do(self, act: Act) -> None:
        """Advance the clocks by a copy or a wait."""
        if act.kind == HOST_AWAITS_COPIES:
            self._host = max(self._host, self._copies)
        elif act.kind == HOST_AWAITS_KERNELS:
            self._host = max(self._host, self._kernels)
        elif act.kind == KERNELS_AWAIT_COPIES:
            self._kernels = max(self._kernels, self._copies)
        elif act.kind == COPIES_AWAIT_KERNELS:
            self._copies = max(self._copies, self._kernels)
        elif act.tensors or act.stale or act.copied:
            self._host += HOOK_NANOSECONDS
            self._copy(act)

    def _copy(self, act: Act) -> None:
        nbytes = sum(act.copied)
        if act.copied_on_host:
            self._host += round(nbytes * NANOSECONDS / HOST_COPY_BYTES_PER_SECOND)
        if act.kind == OFFLOAD:
            took = self._link.back(nbytes)
        elif act.source == DISK:
            took = round(nbytes * NANOSECONDS / DISK_BYTES_PER_SECOND) + self._link.pageable(nbytes)
        else:
            assert act.kind == ONLOAD, act
            rate = self._link.pinned if act.source == PINNED else self._link.pageable
            took = rate(nbytes)
        if act.beside:
            self._copies = end = max(self._copies, self._host) + took
        else:
            self._kernels = end = max(self._kernels, self._host) + took
        if act.blocks:
            self._host = end

    @property
    def nanoseconds(self) -> int:
        """Time at which the host and the kernels are done."""
        return max(self._host, self._kernels)
