"""What was run on the virtual GPU besides the run that a profile is of: fixes, and the call without a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The same calls once more, with one change."""

    changes: dict[str, Any]  # as `Finding.changes` names them, those alone that a run can be given
    fits: bool  # it got to its end within the GPU
    device_bytes: int = 0  # context + reserved; of a plan what it needs; 0 if it could not be run
    seconds: float = 0.0  # of a call, on average
    kept: tuple[str, ...] = ()  # components that a plan keeps on the GPU
    told: str = ""  # what a plan does, in words


@dataclass(frozen=True, kw_only=True)
class WholeCall:
    """What a call takes that ran out of memory, had it got to its end as it is."""

    device_bytes: int  # context + reserved + error band, run without a limit
    seconds: float
    gpu: str = ""  # the smallest GPU of `hardware.cards()` that runs it as it is; "" for none
    gpu_capacity_bytes: int = 0
    gpu_device_bytes: int = 0  # context + reserved + error band there
