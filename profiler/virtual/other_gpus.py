"""GPUs that one run is compared with: which of them would have run the same, and how long each would have taken.

The GPU matters to the memory of a run in few places. Its compute capability decides which kernels there are, its
generation the cuBLAS workspace; the rest is asked for kernel by kernel: cuDNN's workspaces, the scratch of reductions,
sorts and attention, which go by the multiprocessors. So each kernel of the run is asked for its memory on every other
GPU, too, when it is learned. A GPU on which one of them differs is `unlike`; on all others the run is the same up to
time, for which each has a clock of its own beside that of the run (`allocator/clocks.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from profiler.allocator.clocks import Seconds, SharedClock
from profiler.gpus.cost_model import shares_of

if TYPE_CHECKING:
    from profiler.allocator.caching import Allocator
    from profiler.gpus.hardware import GpuSpec


class OtherGpus:
    """The other GPUs of one run; `comparable` tells which may be compared at all.

    Args:
        specs: the GPUs.

    Attributes:
        specs: see above.
        clock: the clock of the run, with one for each of them beside it.
        unlike: the positions of those on which a kernel takes other memory.
        largest_workspace_bytes: the most that a kernel took which can do with less.
        reserved_bytes: the most that was reserved at once, before and after the trace as well.
        own_runs: whether each GPU needs a run of its own, because the run went by its time, name or memory.
        trace: what the first trace of the run told; None before it.
    """

    def __init__(self, specs: Sequence[GpuSpec]) -> None:
        self.specs = tuple(specs)
        self.clock = SharedClock(len(self.specs))
        self.unlike: set[int] = set()
        self.largest_workspace_bytes = 0
        self.reserved_bytes = 0
        self.own_runs = False
        self.trace: OtherTimes | None = None

    def settle(self, allocator: Allocator, *, identity_was_read: bool) -> None:
        """Note what the whole run went by; to be called at its end with the allocator of its GPU."""
        self.reserved_bytes = allocator.peak_reserved_bytes
        by_time = self.clock.decided or allocator.waits.used
        by_capacity = identity_was_read or allocator.settings.memory_fraction < 1.0
        self.own_runs = by_time or by_capacity

    def compare(self, kernel: Any) -> Seconds:
        """Return a kernel's time on each GPU, and note those on which it takes other memory."""
        own = _memory_of(kernel)
        there = [kernel.on(spec) for spec in self.specs]
        self.unlike |= {
            index
            for index, one in enumerate(there)
            if index not in self.unlike and _memory_of(one) != own
        }
        return Seconds(kernel.seconds(), (one.seconds() for one in there))

    def begin(self) -> OtherTimes | None:
        """Return what notes a trace that begins; None for any but the first."""
        if self.trace is not None:
            return None
        self.trace = OtherTimes(self)
        return self.trace


class OtherTimes:
    """What one trace took on the other GPUs.

    Attributes:
        requested_bytes: the most that was requested at once, on any of the GPUs: before the allocator rounds.
        seconds_at: for each mark on the run's clock, the same on the others.
        bands: for each of them, the band of its seconds.
    """

    def __init__(self, others: OtherGpus) -> None:
        self._others = others
        self._before = self._read()
        self.requested_bytes = 0
        self.seconds_at: dict[float, tuple[float, ...]] = {}
        self.bands: tuple[tuple[float, float], ...] = ()

    def take(self, requested_bytes: int) -> None:
        """Note how much was requested at once since the last time."""
        self.requested_bytes = max(self.requested_bytes, requested_bytes)

    def mark(self, seconds: float) -> None:
        """Note the time of each GPU at a mark of the run's clock."""
        clocks = self._others.clock.beside
        begun = self._before
        self.seconds_at[seconds] = tuple(
            clock.at(0) - at for clock, (at, _, _) in zip(clocks, begun, strict=True)
        )

    def end(self) -> None:
        """Note the bands of the seconds up to now."""
        since = [
            tuple(now - then for now, then in zip(after, before, strict=True))
            for after, before in zip(self._read(), self._before, strict=True)
        ]
        self.bands = tuple(
            spec.cost.band(shares_of(*figures))
            for spec, figures in zip(self._others.specs, since, strict=True)
        )

    def _read(self) -> list[tuple[float, float, float]]:
        clocks = self._others.clock.beside
        return [(one.at(0), one.host_bound_seconds, one.exposed_seconds()) for one in clocks]


def comparable(spec: GpuSpec) -> tuple[Any, ...]:
    """Return what two GPUs must share to be compared: kernels, threads, the cuBLAS workspace, and the host's times.

    A GPU that shares the host's memory is compared with no other.
    """
    cost = spec.cost
    host = (
        cost.launch_seconds,
        cost.copy_seconds,
        cost.allocate_seconds,
        cost.release_seconds,
        cost.empty_cache_seconds,
    )
    kernels = (
        spec.platform,
        spec.compute_capability,
        spec.gcn_architecture,
        spec.warp_size,
        spec.attention,
        spec.has_tf32,
        spec.assumed,
    )
    workspaces = (spec.cublas_workspace_bytes, spec.hipblaslt_workspace_bytes)
    alone = spec.key if spec.unified_memory else ""
    return kernels, spec.threads_per_multiprocessor, workspaces, host, alone


def _memory_of(kernel: Any) -> tuple[Any, ...]:
    workspace = kernel.workspace()
    bounds = (int(workspace), workspace.least, workspace.most, workspace.smaller)
    return bounds, kernel.steps(), kernel.needs_blas_workspace
