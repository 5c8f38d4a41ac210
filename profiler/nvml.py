"""What the driver's own library (NVML) says: its version, and the memory in use on a card before torch has touched it.

Where there is no NVML (no driver, some containers) the answers are "" and None: labels are missing, nothing else.
"""

from __future__ import annotations

import os

import pynvml


def driver_version() -> str:
    """Return the driver's version, "" where it is not known."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def used_bytes() -> int | None:
    """Return what is in use on the first visible card, by every process and the driver itself; None if not known."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if visible.isdigit():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total) - int(memory.free)
    except pynvml.NVMLError:
        return None
