"""Queries to the driver's own library (NVML) about the first visible GPU: its memory, its link, and clock limits.

Without NVML (no driver, some containers) the answers are "" and None: labels are missing, nothing else. Use it only
for what torch does not report about a GPU.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable


class Holder(NamedTuple):
    """A process that holds memory on the first visible GPU."""

    pid: int
    name: str  # "" if it may not be queried
    bytes: int | None  # None if the driver does not report it, as on Windows


class GpuMemory(NamedTuple):
    """The first visible GPU's memory, as the driver sees it."""

    name: str
    total_bytes: int
    free_bytes: int
    holders: tuple[Holder, ...]


class PcieLink(NamedTuple):
    """The PCIe link; None for what is not known. An idle GPU falls back to a low generation."""

    generation: int | None
    width: int | None  # lanes
    most_generation: int | None  # that GPU and slot support
    most_width: int | None


class Status(NamedTuple):
    """The GPU at one moment; None for what is not known."""

    used_bytes: int | None  # by all processes and the driver itself
    others_bytes: int | None  # by other processes
    link: PcieLink
    held_back_by: tuple[str, ...]  # reasons for lowered clocks, from HOLDING_BACK


# Source: nvmlClocksEventReasons of nvidia-ml-py. Limits that the user sets, and an idle GPU, are left out.
HOLDING_BACK = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "temperature",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "temperature, by the hardware",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
}


def driver_version() -> str:
    """Return the driver's version, or "" if it is not known."""
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def used_bytes() -> int | None:
    """Return the bytes in use on the first visible GPU, by all processes and the driver itself; None if not known."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(_first_visible())
        return int(memory.total) - int(memory.free)
    except pynvml.NVMLError:
        return None


def gpu_name() -> str:
    """Return the first visible GPU's name, or "" if it is not known; GB10 has one, and reports no memory."""
    try:
        return str(pynvml.nvmlDeviceGetName(_first_visible()))
    except pynvml.NVMLError:
        return ""


def gpu_memory() -> GpuMemory | None:
    """Return the first visible GPU's memory and the processes that hold it, the largest first; None if not known."""
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
    return GpuMemory(str(name), int(memory.total), int(memory.free), tuple(holders))


def status() -> Status | None:
    """Return the present status of the first visible GPU, or None if there is none."""
    handle = _asked(_first_visible)
    if handle is None:
        return None
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
    reasons = _asked(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    return Status(
        used_bytes=None if memory is None else int(memory.total) - int(memory.free),
        others_bytes=_others_bytes(handle),
        link=PcieLink(
            _asked(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            _asked(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            _asked(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
            _asked(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
        ),
        held_back_by=tuple(why for reason, why in HOLDING_BACK.items() if reasons & reason),
    )


def link_counters() -> tuple[int, int] | None:
    """Return the bytes that the GPU has received and sent over PCIe so far; None if the driver does not count them."""
    handle = _asked(_first_visible)
    fields = [pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES]
    values = None if handle is None else _asked(pynvml.nvmlDeviceGetFieldValues, handle, fields)
    if values is None or any(value.nvmlReturn != pynvml.NVML_SUCCESS for value in values):
        return None
    received, sent = (_number(value) for value in values)
    return received, sent


def _number(value: Any) -> int:
    members = {
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    }
    return int(getattr(value.value, members.get(value.valueType, "ullVal")))


def _others_bytes(handle: Any) -> int | None:
    """Return the bytes that other processes hold; None if the driver does not report them for every process."""
    graphics = _asked(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    running = _asked(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if running is None:
        return None
    held = {one.pid: one.usedGpuMemory for one in (*running, *graphics) if one.pid != os.getpid()}
    return None if None in held.values() else sum(held.values())


def _asked(ask: Callable[..., Any], *of: Any) -> Any:
    """Return the library's answer, or None if it has none, as with an older driver."""
    try:
        return ask(*of)
    except pynvml.NVMLError:
        return None


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
