"""The memory reader for a real GPU: torch's figures on memory and time, through its public calls alone.

A virtual GPU answers the same calls, so that tests can compare this reader with the model's own figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from profiler.gpus import nvml
from profiler.gpus.hardware import gpu_spec_of_properties
from profiler.patching import Patches
from profiler.record.profile import Assumption, Gpu, GpuState
from profiler.record.settings import Setting
from profiler.tracing.host import HostNow, LinkSince, measured_host
from profiler.tracing.measured.clock import GpuClock
from profiler.tracing.measured.copies import watch_methods
from profiler.tracing.measured.driver import DriverWatch
from profiler.tracing.measured.peaks import Peaks
from profiler.tracing.reader import CopyObserver, Reading

_NOTHING_KNOWN = LinkSince(0.0, 0.0)


class MeasuredReader:
    """Reads the current device. The methods are those of `MemoryReader`.

    Args:
        tensors: the classes of tensors whose copies are watched.
        host_seconds: the host's clock.
    """

    predicted = False

    def __init__(
        self,
        tensors: tuple[type, ...] = (torch.Tensor,),
        host_seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        torch.cuda.init()  # otherwise torch has no statistics yet
        self._tensors = tensors
        self.host_seconds = host_seconds
        self._clock = GpuClock(host_seconds)
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self._host = measured_host()
        self._driver = DriverWatch()
        self._state: GpuState | None = None
        self._peaks = Peaks()

    def watch(self, patches: Patches, observer: CopyObserver) -> None:
        watch_methods(patches, self._tensors, observer)
        self._peaks.watch(patches)

    def unwatch(self, observer: CopyObserver) -> None:
        """Do nothing: `patches` restores the methods."""

    # -- memory

    def take(self) -> Reading:
        now = self._peaks.take()
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, now.peak_bytes)
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, now.peak_reserved_bytes)
        self._driver.saw(now.reserved_bytes)
        return Reading(now.peak_bytes, now.allocated_bytes, now.reserved_bytes)

    def settle(self) -> None:
        self.take()
        self._state = self._driver.state()  # before anything waits: the GPU is still busy
        self._clock.settle()

    def allocated(self) -> int:
        return torch.cuda.memory_allocated()

    def peak_workspace_bytes(self) -> int:
        return 0

    def kept_workspace_bytes(self) -> int:
        return 0

    def shared_peak_bytes(self) -> None:
        return None

    def take_host(self) -> HostNow:
        return self._host()

    # -- time

    def mark(self) -> int:
        return self._clock.mark()

    def seconds_at(self, mark: float) -> float:
        return self._clock.seconds_at(int(mark))

    def stream(self) -> int:
        return int(torch.cuda.current_stream().cuda_stream)

    def take_link(self) -> LinkSince:
        return _NOTHING_KNOWN

    # -- the GPU and the accuracy of the figures

    def error_band(self) -> float:
        return 0.0

    def error_band_below(self) -> float:
        return 0.0

    def host_bound_seconds(self) -> None:
        return None

    def settings(self) -> tuple[Setting, ...]:
        return ()

    def seconds_bands(self) -> tuple[float, float]:
        return 0.0, 0.0

    def gpu(self) -> Gpu:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        free, total = torch.cuda.mem_get_info()
        return Gpu(
            name=properties.name,
            capacity_bytes=total,
            context_bytes=max(total - free - torch.cuda.memory_reserved(), 0),
            slack_bytes=0,
            architecture=gpu_spec_of_properties(properties).architecture,
            unified_memory=bool(getattr(properties, "is_integrated", 0)),
            virtual=False,
            driver=nvml.driver_version(),
        )

    def card_state(self) -> GpuState | None:
        return self._state

    def assumptions(self) -> tuple[Assumption, ...]:
        return ()
