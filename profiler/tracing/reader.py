"""The interface through which the tracer reads a GPU: torch for a real one, the model for a virtual one.

The implementations are in `measured/reader.py` and `predicted/reader.py`; `tracer.py` chooses between them, and nothing
else depends on which one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from profiler.libraries.out_of_memory import Shortage, parse
from profiler.patching import Patches
from profiler.record.profile import Assumption, Gpu, GpuState
from profiler.record.settings import Setting
from profiler.tracing.host import HostNow, LinkSince

CopyObserver = Callable[[str, str, int], None]
"""Called with (from, to, bytes) for each copy between host and device."""


class Reading(NamedTuple):
    """The GPU's memory: the peak since the last reading, and the present figures."""

    peak_bytes: int
    allocated_bytes: int
    reserved_bytes: int


class MemoryReader(Protocol):
    """Memory reader: reads the current device's memory and clock for the length of one trace.

    Attributes:
        predicted: whether the figures come from a model.
        peak_allocated_bytes: the highest of all peaks taken.
        peak_reserved_bytes: the same for reserved memory.
    """

    predicted: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int

    def watch(self, patches: Patches, observer: CopyObserver) -> None:
        """Start: call `observer` for each copy; everything that is replaced goes through `patches`."""

    def unwatch(self, observer: CopyObserver) -> None:
        """Stop calling `observer`."""

    def settle(self) -> None:
        """Take the last peak. A virtual GPU's statistics are as without a trace again; a real one's start anew."""

    def take(self) -> Reading:
        """Read memory, and start a new peak."""

    def allocated(self) -> int:
        """Return the allocated bytes now."""

    def mark(self) -> float:
        """Mark this moment; `seconds_at` returns its time."""

    def seconds_at(self, mark: float) -> float:
        """Return the seconds from the start to a mark; on a real GPU only after `settle`."""

    def stream(self) -> int:
        """Return the number of the current stream, 0 for the default one."""

    def take_host(self) -> HostNow:
        """Return the host's memory."""

    def shared_peak_bytes(self) -> int | None:
        """Return the most that GPU and host held together; None if they share no memory, or it is not known."""

    def take_link(self) -> LinkSince:
        """Return the copy times since the last call."""

    def peak_workspace_bytes(self) -> int:
        """Return the share of kernel workspaces in the highest peak, as far as it is known."""

    def kept_workspace_bytes(self) -> int:
        """Return the bytes that workspaces hold permanently, as far as they are known."""

    def error_band(self) -> float:
        """Return the fraction of the peak by which it may be too low; 0 for a measurement."""

    def error_band_below(self) -> float:
        """Return the fraction of the peak by which it may be too high; 0 for a measurement."""

    def host_bound_seconds(self) -> float | None:
        """Return for how long the host's own work decided; None if it is not known."""

    def settings(self) -> tuple[Setting, ...]:
        """Return what was known of the machine besides the GPU's name; empty for a measurement, which says it."""

    def seconds_bands(self) -> tuple[float, float]:
        """Return the fractions by which the seconds may be too low and too high; 0 for a measurement."""

    def gpu(self) -> Gpu:
        """Return the GPU's record."""

    def card_state(self) -> GpuState | None:
        """Return what the driver reported during the trace; None for a GPU without a driver."""

    def assumptions(self) -> tuple[Assumption, ...]:
        """Return the unknown values that had to be assumed, how often, and what that may change."""


def shortage_of(error: BaseException) -> Shortage | None:
    """Return torch's figures on the memory that `error` found missing; None for an error of another kind."""
    exact = getattr(error, "shortage", None)
    return exact if isinstance(exact, Shortage) else parse(str(error))


def largest_free_block_bytes() -> int:
    """Return the size of the largest block that is reserved and free."""
    segments = torch.cuda.memory_snapshot()
    blocks = (block for segment in segments for block in segment["blocks"])
    return max((block["size"] for block in blocks if block["state"] == "inactive"), default=0)
