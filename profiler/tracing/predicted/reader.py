"""The memory reader for a virtual GPU: the model's figures on memory and time."""

from __future__ import annotations

import torch

from profiler.allocator.caching import Allocator
from profiler.gpus.cost_model import shares_of
from profiler.libraries.compiled import COMPILE
from profiler.patching import Patches
from profiler.record.profile import Assumption, Gpu
from profiler.record.settings import HOST_LAUNCH, Setting
from profiler.tracing.host import HostNow, LinkSince, modelled_host, modelled_link
from profiler.tracing.reader import CopyObserver, Reading
from profiler.virtual.device import Device
from profiler.virtual.lending.left_behind import HOOK
from profiler.virtual.step_replay.replay import Listener
from profiler.virtual.workspaces import NOTHING, Workspace

# The error of a prediction beyond kernels' calibrated memory, as a fraction of the peak. A choice, not a bound:
# benchmarks/accuracy.py prints which published peaks lie inside the resulting band, and not all do.
ROUNDING_BAND = 0.01


_STEERS = "code that branches on it may take another way on real data"
_EFFECTS = {
    "calibration": "measured on a GPU, in place of the rule",
    "cudnn": "asked without a GPU, in place of the rule",
    "rule": 'it may take more or less; the error band counts that: pip install "vram-profiler[cudnn]" to ask cuDNN',
    "convolutions": "which solver of MIOpen runs was not asked; the error band counts both ends",
    "numpy": "pixels of an image are unknown; their number is not",
    HOOK: "what it allocates is not counted, nor what it changes",
    "nonzero": "the most memory that a mask can take",
    "workspace": "slower than the first one; the peak is lower",
    "mode": "some bytes or seconds differ; nothing that steers the run",
    COMPILE: "compiled, it takes less memory and less time",
    "operator": "it may take as much again; the error band counts that",
}


class PredictedReader:
    """Reads a virtual GPU. The methods are those of `MemoryReader`."""

    predicted = True

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._began = gpu.clock.at(0)
        self._host_bound_before = gpu.clock.host_bound_seconds
        self._exposed_before = gpu.clock.exposed_seconds()
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self._workspace_at_highest = NOTHING
        self._least_highest = 0  # the highest peak, if every workspace took its minimum
        # The earlier statistics, which `settle` restores.
        self._earlier = (gpu.allocator.peak_bytes, gpu.allocator.peak_reserved_bytes)
        torch.cuda.reset_peak_memory_stats()
        self._host, self._link = modelled_host(gpu), modelled_link(gpu)
        self._host()  # what happened before the trace does not count
        gpu.most_peak_bytes = 0
        gpu.host.peak_shared_bytes = 0
        gpu.host.look()
        self._others = None if gpu.others is None else gpu.others.begin()

    def watch(self, patches: Patches, observer: CopyObserver) -> None:
        self._gpu.copy_observers.append(observer)

    def unwatch(self, observer: CopyObserver) -> None:
        if observer in self._gpu.copy_observers:
            self._gpu.copy_observers.remove(observer)

    def watch_replay(self, listener: Listener | None) -> None:
        """Notify `listener` of replayed forwards; None stops that."""
        if self._gpu.replay is not None:
            self._gpu.replay.listener = listener

    # -- memory

    def take(self) -> Reading:
        allocator = self._gpu.allocator
        peak = allocator.peak_bytes
        workspace = self._workspace_at(peak)
        if peak > self.peak_allocated_bytes:
            self.peak_allocated_bytes = peak
            self._workspace_at_highest = workspace
        self._least_highest = max(self._least_highest, peak - workspace + workspace.least)
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, allocator.peak_reserved_bytes)
        if self._others is not None:
            self._others.take(allocator.all.requested_bytes.peak)
        # Called directly, past the replay's recording of forwards: a reader does nothing to the GPU.
        Allocator.reset_peak(allocator)
        return Reading(peak, allocator.allocated_bytes, allocator.reserved_bytes)

    def settle(self) -> None:
        self.take()
        allocated, reserved = self._earlier
        allocator = self._gpu.allocator
        allocator.peak_bytes = max(allocated, self.peak_allocated_bytes)
        allocator.peak_reserved_bytes = max(reserved, self.peak_reserved_bytes)
        if self.peak_allocated_bytes >= allocated:
            self._gpu.workspace_peak = (self.peak_allocated_bytes, self._workspace_at_highest)

    def allocated(self) -> int:
        return self._gpu.allocator.allocated_bytes

    def _workspace_at(self, peak_bytes: int) -> Workspace:
        """Return the share of a kernel's workspace in the peak that was just reached."""
        at, workspace = self._gpu.workspace_peak
        return workspace if at == peak_bytes else NOTHING

    def peak_workspace_bytes(self) -> int:
        return self._gpu.workspace_bytes + self._workspace_at_highest

    def kept_workspace_bytes(self) -> int:
        return self._gpu.workspace_bytes

    def shared_peak_bytes(self) -> int | None:
        return self._gpu.host.peak_shared_bytes if self._gpu.spec.unified_memory else None

    def take_host(self) -> HostNow:
        return self._host()

    # -- time

    def mark(self) -> float:
        mark = self._gpu.clock.at(0) - self._began
        if self._others is not None:
            self._others.mark(mark)
        return mark

    def seconds_at(self, mark: float) -> float:
        return mark

    def ideally(self) -> tuple[float, float]:
        """Return the times of the host and the default stream with copies that take no time."""
        return self._gpu.clock.ideally()

    def stream(self) -> int:
        return int(self._gpu.current_stream.cuda_stream)

    def take_link(self) -> LinkSince:
        return self._link()

    # -- the GPU and the accuracy of the figures

    def error_band(self) -> float:
        if not self.peak_allocated_bytes:
            return 0.0
        further = max(self._gpu.most_peak_bytes / self.peak_allocated_bytes - 1, 0.0)
        return self._least_band() + further

    def error_band_below(self) -> float:
        if not self.peak_allocated_bytes:
            return 0.0
        return self._least_band() + 1 - self._least_highest / self.peak_allocated_bytes

    def _least_band(self) -> float:
        return ROUNDING_BAND + self._gpu.spec.assumed.error_band

    def host_bound_seconds(self) -> float:
        return self._gpu.clock.host_bound_seconds - self._host_bound_before

    def settings(self) -> tuple[Setting, ...]:
        cost = self._gpu.spec.cost
        if cost.has_usual_launch:
            return ()
        microseconds = round(cost.launch_seconds * 1e6, 1)
        whole = int(microseconds)
        value = whole if whole == microseconds else microseconds
        return (Setting(what=HOST_LAUNCH, value=value),)

    def seconds_bands(self) -> tuple[float, float]:
        exposed_seconds = self._gpu.clock.exposed_seconds() - self._exposed_before
        if self._others is not None:
            self._others.end()
        return self._gpu.spec.cost.band(
            shares_of(self.mark(), self.host_bound_seconds(), exposed_seconds)
        )

    def gpu(self) -> Gpu:
        spec = self._gpu.spec
        return Gpu(
            name=spec.name,
            capacity_bytes=self._gpu.capacity_bytes,
            context_bytes=spec.context_bytes,
            slack_bytes=spec.slack_bytes,
            architecture=spec.architecture,
            h2d_bytes_per_second=spec.h2d_bytes_per_second,
            d2h_bytes_per_second=spec.d2h_bytes_per_second,
            pinned_bytes_per_second=spec.pinned_bytes_per_second,
            unified_memory=spec.unified_memory,
        )

    def card_state(self) -> None:
        return None

    def assumptions(self) -> tuple[Assumption, ...]:
        found = tuple(
            Assumption(what=f"{asked}: {taken}", count=count, effect=_EFFECTS.get(asked, _STEERS))
            for (asked, taken), count in sorted(self._gpu.values.assumed.items())
        )
        platform = self._gpu.spec.assumed
        if not platform.assumption:
            return found
        return (Assumption(what=platform.assumption, effect=platform.effect), *found)
