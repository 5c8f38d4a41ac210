"""The figures in torch's out-of-memory message: requested, free, allocated, reserved and not allocated.

The wording is that of `malloc` in PyTorch's c10/cuda/CUDACachingAllocator.cpp, as it is since 2.1 and as it was
before ("20.00 MiB (GPU 0; 7.93 GiB total capacity; 5.24 GiB already allocated; ...)", from knowledge).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from profiler.units import GIB, KIB, MIB, TIB


class Shortage(NamedTuple):
    """The figures; None for those that the message does not have."""

    requested_bytes: int | None = None
    free_bytes: int | None = None
    allocated_bytes: int | None = None
    unallocated_bytes: int | None = None
    allowed_bytes: int | None = None  # by `torch.cuda.set_per_process_memory_fraction`


_UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_SIZE = r"([\d.]+) (bytes|[KMGT]iB)"
_OUT_OF_MEMORY = re.compile("out of memory", re.IGNORECASE)
_REQUESTED = re.compile(f"Tried to allocate {_SIZE}")
_FREE = re.compile(rf"of which {_SIZE} is free|{_SIZE} free;")
_ALLOCATED = re.compile(rf"{_SIZE} is allocated by PyTorch|{_SIZE} already allocated")
_UNALLOCATED = re.compile(f"{_SIZE} is reserved by PyTorch but unallocated")
_ALLOWED = re.compile(f"{_SIZE} allowed;")
_RESERVED = re.compile(f"{_SIZE} reserved in total by PyTorch")


def parse(text: str) -> Shortage | None:
    """Return the memory figures of an error's message, or None if it is about something else."""
    if not _OUT_OF_MEMORY.search(text):
        return None
    allocated = _bytes(_ALLOCATED, text)
    unallocated = _bytes(_UNALLOCATED, text)
    reserved = _bytes(_RESERVED, text)
    if unallocated is None and reserved is not None and allocated is not None:
        unallocated = max(reserved - allocated, 0)
    return Shortage(
        requested_bytes=_bytes(_REQUESTED, text),
        free_bytes=_bytes(_FREE, text),
        allocated_bytes=allocated,
        unallocated_bytes=unallocated,
        allowed_bytes=_bytes(_ALLOWED, text),
    )


def _bytes(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    if found is None:
        return None
    number, unit = (group for group in found.groups() if group is not None)
    try:
        return round(float(number) * _UNITS[unit])
    except ValueError:  # "1.2.3" is no number
        return None
