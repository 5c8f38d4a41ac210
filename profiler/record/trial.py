"""Further runs on the virtual GPU besides the profiled one: trials of fixes, and the call without a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of the same calls with one change."""

    changes: dict[str, Any]  # as in `Finding.changes`, only those that can be made to a run
    fits: bool  # it completed within the GPU's memory
    device_bytes: int = (
        0  # context + reserved; of a plan the bytes needed; 0 if it could not be run
    )
    seconds: float = 0.0  # of a call, on average
    kept: tuple[str, ...] = ()  # components that a plan keeps on the GPU
    told: str = ""  # a plan in words


@dataclass(frozen=True, kw_only=True)
class WholeCall:
    """The memory that an unchanged call would have taken to complete if it had not run out of memory."""

    device_bytes: int  # context + reserved + error band, run without a limit
    seconds: float
    gpu: str = ""  # the smallest GPU of `hardware.gpu_specs()` that runs it unchanged; "" for none
    gpu_capacity_bytes: int = 0
    gpu_device_bytes: int = 0  # context + reserved + error band there
