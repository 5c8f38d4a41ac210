"""What the driver's own library (NVML) says: its version, and the memory in use on a card before torch has touched it.

Where there is no NVML (no driver, some containers) the answers are "" and None: labels are missing, nothing else.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import psutil
import pynvml


class Holder(NamedTuple):
    """A process that has memory on the first visible card."""

    pid: int
    name: str  # "" where it may not be asked
    bytes: int | None  # None where the driver does not say, as on Windows


class CardMemory(NamedTuple):
    """The first visible card's memory, as the driver sees it."""

    name: str
    total_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...]


def driver_version() -> str:
    """Return the driver's version, "" where it is not known."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def used_bytes() -> int | None:
    """Return what is in use on the first visible card, by every process and the driver itself; None if not known."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(_first_visible())
        return int(memory.total) - int(memory.free)
    except pynvml.NVMLError:
        return None


def card_memory() -> CardMemory | None:
    """Return the first visible card's memory and who holds it, the largest first; None if not known."""
    try:
        handle = _first_visible()
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        running = [
            *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    except pynvml.NVMLError:
        return None
    held = {one.pid: one.usedGpuMemory for one in running}
    holders = [Holder(pid, _process_name(pid), size) for pid, size in held.items()]
    holders.sort(key=lambda holder: -(holder.bytes or 0))
    return CardMemory(str(name), int(memory.total), int(memory.free), tuple(holders))


def _first_visible() -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    pynvml.nvmlInit()
    if visible.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(visible))
    return pynvml.nvmlDeviceGetHandleByUUID(visible)


def _process_name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""
