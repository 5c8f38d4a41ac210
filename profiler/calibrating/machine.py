"""The GPU at hand: its specifications, its copy and launch rates, and the driver's memory beside the allocator."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from profiler.calibrating.kernels import timed
from profiler.gpus import nvml
from profiler.gpus.calibration_table import CopyCost
from profiler.gpus.hardware import GpuSpec, gpu_spec_of_properties
from profiler.units import MIB

COPY_BYTES = (MIB, 16 * MIB, 256 * MIB)
_COPIES = 5  # of which the best counts
_LAUNCHES = 2000


def gpu_at_hand() -> GpuSpec:
    """Return the GPU that torch sees, with the memory that its driver reports."""
    return gpu_spec_of_properties(torch.cuda.get_device_properties(torch.cuda.current_device()))


def versions() -> dict[str, str]:
    """Return the versions on which the memory and speed of kernels depend."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
        "driver": nvml.driver_version(),
    }


def measure_context(before_bytes: int) -> dict[str, int]:
    """Return what the driver shows as used beside the allocator: bare, then with cuBLAS, then with cuDNN.

    This is the size of the context only if the process has done nothing else on the GPU yet.

    Args:
        before_bytes: what was in use on the GPU before this process touched it.
    """
    found = {}
    matrix = torch.zeros(256, 256, dtype=torch.float16, device="cuda")
    found["bare"] = beside_allocator_bytes(before_bytes)
    torch.mm(matrix, matrix)
    found["with_blas"] = beside_allocator_bytes(before_bytes)
    image = torch.zeros(8, 8, 8, 8, dtype=torch.float16, device="cuda")
    torch.nn.functional.conv2d(image, image)
    found["with_convolutions"] = beside_allocator_bytes(before_bytes)
    return found


def beside_allocator_bytes(before_bytes: int) -> int:
    """Return what the driver shows as used on the GPU, less what is reserved and what was there before."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return max(total - free - torch.cuda.memory_reserved() - before_bytes, 0)


def measure_copies(sizes: tuple[int, ...] = COPY_BYTES) -> tuple[CopyCost, ...]:
    """Return the best of several copies of each size, both ways, from pinned and from pageable memory."""
    return tuple(
        CopyCost(way=way, pinned=pinned, bytes=nbytes, seconds=_copy_seconds(way, pinned, nbytes))
        for way in ("h2d", "d2h")
        for pinned in (True, False)
        for nbytes in sizes
    )


def _copy_seconds(way: str, pinned: bool, nbytes: int) -> float:
    host = torch.ones(nbytes, dtype=torch.uint8)
    host = host.pin_memory() if pinned else host
    device = torch.ones(nbytes, dtype=torch.uint8, device="cuda")
    target, source = (device, host) if way == "h2d" else (host, device)
    copy: Any = partial(target.copy_, source, non_blocking=pinned)
    return min(timed(copy, repeats=1) for _ in range(_COPIES))


def measure_launch() -> float:
    """Return the seconds between the starts of two kernels that themselves take almost no time."""
    one = torch.zeros(1, device="cuda")
    timed(partial(one.add_, 1), repeats=_LAUNCHES)
    return timed(partial(one.add_, 1), repeats=_LAUNCHES)
