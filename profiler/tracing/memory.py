"""What torch says about memory and time, from a real card or a virtual one by the same calls.

Copies between host and device that are no weights (inputs, images) are seen where they happen: the virtual GPU tells of
each; on a real card, Python's tensor methods are watched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from profiler import nvml
from profiler.out_of_memory import Shortage, parse
from profiler.patching import Patches
from profiler.profile import Assumption, Gpu
from profiler.tracing.host import HostNow, LinkSince, host_gauge, link_gauge
from profiler.virtual.allocator import Allocator
from profiler.virtual.functions import active_gpu
from profiler.virtual.replay import Listener
from profiler.virtual.workspaces import NOTHING, Workspace

CopyObserver = Callable[[str, str, int], None]

# What a prediction may be wrong by beside kernels' calibrated memory, as a fraction of the peak. A choice, not a bound:
# benchmarks/accuracy.py prints which published peaks lie inside the band that comes of it, and not all do.
ROUNDING_BAND = 0.01


_STEERS = "code that branches on it may take another way on real data"
_EFFECTS = {
    "calibration": "measured on a card, in place of the rule",
    "numpy": "pixels of an image are unknown; their number is not",
    "nonzero": "the most memory that a mask can take",
    "workspace": "slower than with it; the peak is lower",
    "operator": "it may take as much again; the error band counts that",
}


class Gauge:
    """Reads the current device's memory statistics and clock."""

    def __init__(self) -> None:
        self._virtual = active_gpu()
        self._copy_patches = Patches()
        self._began = 0.0
        self._began = self.now()
        self._highest = 0
        self._highest_reserved = 0
        self._workspace_at_highest = NOTHING
        self._least_highest = 0  # the highest peak, if every workspace took what it takes at least
        # What the statistics said before, so that `settle` can say it again.
        self._earlier = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        self.take_host: Callable[[], HostNow] = host_gauge(self._virtual)
        self.take_link: Callable[[], LinkSince] = link_gauge(self._virtual)
        self.take_host()  # what was before the trace is no part of it
        if self._virtual is not None:
            self._virtual.most_peak_bytes = 0

    @property
    def predicted(self) -> bool:
        """Whether a model answers."""
        return self._virtual is not None

    def allocated(self) -> int:
        """Return allocated bytes now."""
        return torch.cuda.memory_allocated()

    def reserved(self) -> int:
        """Return reserved bytes now."""
        return torch.cuda.memory_reserved()

    def take_peak(self) -> int:
        """Return the highest allocated bytes since the last call, and begin anew."""
        peak = torch.cuda.max_memory_allocated()
        if peak > self._highest:
            self._highest = peak
            self._workspace_at_highest = self._workspace_at(peak)
        workspace = self._workspace_at(peak)
        self._least_highest = max(self._least_highest, peak - workspace + workspace.least)
        self._highest_reserved = max(self._highest_reserved, torch.cuda.max_memory_reserved())
        if self._virtual is None:
            torch.cuda.reset_peak_memory_stats()
        else:
            # Past what a recording of a forward puts in the way: a reader does nothing to the card.
            Allocator.reset_peak(self._virtual.allocator)
        return peak

    def settle(self) -> None:
        """Leave the peak statistics as if they had not been taken."""
        self.take_peak()
        if self._virtual is not None:
            allocated, reserved = self._earlier
            allocator = self._virtual.allocator
            allocator.peak_bytes = max(allocated, self._highest)
            allocator.peak_reserved_bytes = max(reserved, self._highest_reserved)
            if self._highest >= allocated:
                self._virtual.workspace_peak = (self._highest, self._workspace_at_highest)

    @property
    def peak_allocated_bytes(self) -> int:
        """The highest of all peaks taken."""
        return self._highest

    @property
    def peak_reserved_bytes(self) -> int:
        """The same for reserved memory."""
        return self._highest_reserved

    def now(self) -> float:
        """Return seconds from the start: the default stream's on a virtual card, the host's on a real one."""
        clock = time.perf_counter() if self._virtual is None else self._virtual.clock.at(0)
        return clock - self._began

    def ideally(self) -> tuple[float, float]:
        """Return how far the host and the default stream would be with copies that take no time; 0 if not known."""
        return (0.0, 0.0) if self._virtual is None else self._virtual.clock.ideally()

    def watch_replay(self, listener: Listener | None) -> None:
        """Tell `listener` of forwards that are left out; None ends that."""
        replay = None if self._virtual is None else self._virtual.replay
        if replay is not None:
            replay.listener = listener

    def stream(self) -> int:
        """Return the number of the current stream, 0 for the default one."""
        return int(torch.cuda.current_stream().cuda_stream)

    def _workspace_at(self, peak_bytes: int) -> Workspace:
        """Return what a kernel's own memory took of the peak that was just reached."""
        at, workspace = (0, NOTHING) if self._virtual is None else self._virtual.workspace_peak
        return workspace if at == peak_bytes else NOTHING

    def peak_workspace_bytes(self) -> int:
        """Return what kernels' own memory took of the highest peak, as far as it is known."""
        return (
            0
            if self._virtual is None
            else self._virtual.workspace_bytes + self._workspace_at_highest
        )

    def kept_workspace_bytes(self) -> int:
        """Return what kernels' own memory takes all the time, as far as it is known."""
        return 0 if self._virtual is None else self._virtual.workspace_bytes

    def shortage(self, error: BaseException) -> Shortage | None:
        """Return what torch says of the memory that `error` found missing; None for an error of another kind."""
        exact = getattr(error, "shortage", None)
        return exact if isinstance(exact, Shortage) else parse(str(error))

    def largest_free_block_bytes(self) -> int:
        """Return the largest block that is reserved and free."""
        segments = torch.cuda.memory_snapshot()
        blocks = (block for segment in segments for block in segment["blocks"])
        return max((block["size"] for block in blocks if block["state"] == "inactive"), default=0)

    def error_band(self) -> float:
        """Return by how much the peak may be too low, as a fraction of it; 0 for a measurement."""
        if self._virtual is None or not self._highest:
            return 0.0
        return ROUNDING_BAND + max(self._virtual.most_peak_bytes / self._highest - 1, 0.0)

    def error_band_below(self) -> float:
        """Return by how much the peak may be too high, as a fraction of it; 0 for a measurement."""
        if self._virtual is None or not self._highest:
            return 0.0
        return ROUNDING_BAND + 1 - self._least_highest / self._highest

    def gpu(self) -> Gpu:
        """Return the card's record."""
        if self._virtual is not None:
            card = self._virtual.card
            return Gpu(
                name=card.name,
                capacity_bytes=self._virtual.capacity_bytes,
                context_bytes=card.context_bytes,
                slack_bytes=card.slack_bytes,
                architecture=card.architecture,
                h2d_bytes_per_second=card.h2d_bytes_per_second,
                d2h_bytes_per_second=card.d2h_bytes_per_second,
                pinned_bytes_per_second=card.pinned_bytes_per_second,
            )
        return _real_gpu()

    def assumptions(self) -> tuple[Assumption, ...]:
        """Return which unknown values had to be assumed, how often, and what that may change."""
        if self._virtual is None:
            return ()
        return tuple(
            Assumption(what=f"{asked}: {taken}", count=count, effect=_EFFECTS.get(asked, _STEERS))
            for (asked, taken), count in sorted(self._virtual.values.assumed.items())
        )

    # -- copies that are no weights

    def watch_copies(self, observer: CopyObserver) -> None:
        """Tell `observer` of (from, to, bytes) of each copy between host and device."""
        if self._virtual is not None:
            self._virtual.copy_observers.append(observer)
        else:
            _watch_methods(self._copy_patches, observer)

    def unwatch_copies(self, observer: CopyObserver) -> None:
        """Stop telling."""
        if self._virtual is not None:
            self._virtual.copy_observers.remove(observer)
        self._copy_patches.restore()


def _watch_methods(patches: Patches, observer: CopyObserver) -> None:
    """Watch `torch.Tensor`'s own ways between devices. Copies made inside C++ are not seen."""

    def returning(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if result is not self:
                _tell(observer, self, result)
            return result

        return method

    for name in ("to", "cpu", "cuda"):
        patches.replace(torch.Tensor, name, returning(getattr(torch.Tensor, name)))
    copy = torch.Tensor.copy_

    def copy_(self: torch.Tensor, source: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = copy(self, source, *args, **kwargs)
        _tell(observer, source, self)
        return result

    patches.replace(torch.Tensor, "copy_", copy_)


def _tell(observer: CopyObserver, source: torch.Tensor, target: torch.Tensor) -> None:
    kinds = (source.device.type, target.device.type)
    if kinds in (("cpu", "cuda"), ("cuda", "cpu")):
        observer(*kinds, source.numel() * target.element_size())


def _real_gpu() -> Gpu:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info()
    return Gpu(
        name=properties.name,
        capacity_bytes=total,
        context_bytes=max(total - free - torch.cuda.memory_reserved(), 0),
        slack_bytes=0,
        architecture=f"sm_{properties.major}{properties.minor}",
        virtual=False,
        driver=nvml.driver_version(),
    )
