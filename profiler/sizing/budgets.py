"""Budgets of a plan: GPU memory, as a size, a GPU's name or the free memory less a margin; and host memory.

Free host memory respects the limits of control groups: a container that exceeds them is killed long before the machine
is full. Sources: memory.max, memory.current and memory.stat of the kernel's cgroup v2 documentation, and
memory.limit_in_bytes, memory.usage_in_bytes and memory.stat of v1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from profiler.errors import InputError
from profiler.gpus import nvml
from profiler.gpus.hardware import gpu_spec
from profiler.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from profiler.gpus.nvml import GpuMemory

_CGROUPS = Path("/sys/fs/cgroup")
_V1 = _CGROUPS / "memory"
_MOST_NAMED = 3


class Budget(NamedTuple):
    """The GPU memory that a plan may take."""

    nbytes: int
    origin: str  # of the figure, for the reader; "" if it was typed
    gpu: str = ""  # key of the GPU that it names; "" if it names none


def gpu_budget(text: str) -> Budget:
    """Return the budget that `text` names.

    Args:
        text: A size (`8GiB`), a GPU (`rtx-4090`: its whole memory), or a size after a minus sign (`-2GiB`: the memory
            that the driver reports as free now, less that size).

    Raises:
        InputError: if it is none of these, or the driver cannot be asked.
    """
    if text.startswith("-"):
        return _free_but(parse_bytes(text[1:]))
    if text[:1].isdigit():
        return Budget(parse_bytes(text), "")
    try:
        chosen = gpu_spec(text)
    except InputError as error:
        raise InputError(
            f"{text!r} is not a budget: pass a size (8GiB), a GPU from `vram list gpus`, or -2GiB to leave 2 GiB of "
            "the free memory unused"
        ) from error
    return Budget(chosen.capacity_bytes, f"all of {chosen.name}", chosen.key)


def _free_but(margin_bytes: int) -> Budget:
    name = nvml.gpu_name()
    if _shares_memory(name):
        free_bytes = free_host_bytes()
        return _less(
            free_bytes, margin_bytes, f"{format_bytes(free_bytes)} available to host and {name} now"
        )
    memory = nvml.gpu_memory()
    if memory is None:
        raise InputError(
            f"-{format_bytes(margin_bytes)} means what is free now less that, but no driver is here to ask: "
            "give a size, for example 8GiB"
        )
    state = f"{format_bytes(memory.free_bytes)} free on {memory.name} now{_held(memory)}"
    return _less(memory.free_bytes, margin_bytes, state)


def _shares_memory(name: str) -> bool:
    """Tell whether the GPU called `name` shares the host's memory: the system says what is free, page cache too."""
    try:
        return bool(name) and gpu_spec(name).unified_memory
    except InputError:
        return False


def _less(free_bytes: int, margin_bytes: int, state: str) -> Budget:
    left_bytes = free_bytes - margin_bytes
    if left_bytes <= 0:
        raise InputError(f"less than {format_bytes(margin_bytes)} is free: {state}")
    return Budget(left_bytes, f"{state}, less {format_bytes(margin_bytes)}")


def _held(memory: GpuMemory) -> str:
    named = [
        f"{holder.name or 'a process'} ({holder.pid})"
        + (f" {format_bytes(holder.bytes)}" if holder.bytes else "")
        for holder in memory.holders[:_MOST_NAMED]
    ]
    more = len(memory.holders) - len(named)
    named += [f"{more} more"] if more > 0 else []
    return f" beside {', '.join(named)}" if named else ""


def free_host_bytes() -> int:
    """Return the host memory that this process may still take: the machine's, or its control group's if less."""
    free = int(psutil.virtual_memory().available)
    groups = (_free_v2(_CGROUPS), _free_v1(_V1))
    return min([free, *(group for group in groups if group is not None)])


def _free_v2(group: Path) -> int | None:
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is None or used is None:
        return None
    return max(limit - used + _statistic(group / "memory.stat", "inactive_file"), 0)


def _free_v1(group: Path) -> int | None:
    limit = _number(group / "memory.limit_in_bytes")
    used = _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    return max(limit - used + _statistic(group / "memory.stat", "total_inactive_file"), 0)


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is none, for example because the limit is "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    """Return a statistic of a control group, such as the file cache, which can be released and counts as free."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines]
    return next((int(words[1]) for words in found if words and words[0] == name), 0)
