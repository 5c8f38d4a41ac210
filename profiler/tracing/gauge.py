"""What the tracer asks of whoever answers for the card: torch, for a real one, or the model of a virtual one.

The answers are in `measured/gauge.py` and `predicted/gauge.py`; `tracer.py` chooses between them, and nothing else asks
which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from profiler.libraries.out_of_memory import Shortage, parse
from profiler.patching import Patches
from profiler.record.profile import Assumption, CardState, Gpu
from profiler.tracing.host import HostNow, LinkSince

CopyObserver = Callable[[str, str, int], None]
"""Told of (from, to, bytes) of each copy between host and device."""


class Reading(NamedTuple):
    """The card's memory: the most that was allocated since the last reading, and what there is now."""

    peak_bytes: int
    allocated_bytes: int
    reserved_bytes: int


class Gauge(Protocol):
    """Reads the current device's memory and clock for the length of one trace.

    Attributes:
        predicted: whether a model answers.
        peak_allocated_bytes: the highest of all peaks taken.
        peak_reserved_bytes: the same for reserved memory.
    """

    predicted: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int

    def watch(self, patches: Patches, observer: CopyObserver) -> None:
        """Begin: tell `observer` of each copy, and take back what is replaced by `patches`."""

    def unwatch(self, observer: CopyObserver) -> None:
        """Stop telling."""

    def settle(self) -> None:
        """Take the last peak. A virtual GPU's statistics say again what they would; a real one's start anew."""

    def take(self) -> Reading:
        """Read memory, and begin a new peak."""

    def allocated(self) -> int:
        """Return allocated bytes now."""

    def mark(self) -> float:
        """Mark this moment; `seconds_at` tells when it was."""

    def seconds_at(self, mark: float) -> float:
        """Return the seconds from the start to a mark; on a real card only after `settle`."""

    def stream(self) -> int:
        """Return the number of the current stream, 0 for the default one."""

    def take_host(self) -> HostNow:
        """Return the host's memory."""

    def take_link(self) -> LinkSince:
        """Return what copies took since the last call."""

    def peak_workspace_bytes(self) -> int:
        """Return what kernels' own memory took of the highest peak, as far as it is known."""

    def kept_workspace_bytes(self) -> int:
        """Return what kernels' own memory takes all the time, as far as it is known."""

    def error_band(self) -> float:
        """Return by how much the peak may be too low, as a fraction of it; 0 for a measurement."""

    def error_band_below(self) -> float:
        """Return by how much the peak may be too high, as a fraction of it; 0 for a measurement."""

    def gpu(self) -> Gpu:
        """Return the card's record."""

    def card_state(self) -> CardState | None:
        """Return what the driver said while the trace ran; None for a card that has none."""

    def assumptions(self) -> tuple[Assumption, ...]:
        """Return which unknown values had to be assumed, how often, and what that may change."""


def shortage_of(error: BaseException) -> Shortage | None:
    """Return what torch says of the memory that `error` found missing; None for an error of another kind."""
    exact = getattr(error, "shortage", None)
    return exact if isinstance(exact, Shortage) else parse(str(error))


def largest_free_block_bytes() -> int:
    """Return the largest block that is reserved and free."""
    segments = torch.cuda.memory_snapshot()
    blocks = (block for segment in segments for block in segment["blocks"])
    return max((block["size"] for block in blocks if block["state"] == "inactive"), default=0)
