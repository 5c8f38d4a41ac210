"""A GPU as cuDNN wants it described, in JSON: what the driver would report.

cuDNN's documentation of deviceless compilation does not list the members; the library names in its error log each one
that it misses. Which of them move an answer was tried on every third convolution of the catalogue, on seven GPUs: the
compute capability, and on Hopper the clocks, by some 256 KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.units import KIB

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec

_DRIVER = 13000  # the driver's CUDA version; it moves no answer


class Multiprocessor(NamedTuple):
    """Limits of a multiprocessor.

    Source: the table of technical specifications per compute capability in NVIDIA's CUDA C++ Programming Guide.
    """

    shared_kib: int
    shared_per_block_kib: int  # what a block can opt in to
    threads: int
    blocks: int


_MULTIPROCESSORS = {
    (7, 0): Multiprocessor(96, 96, 2048, 32),
    (7, 5): Multiprocessor(64, 64, 1024, 16),
    (8, 0): Multiprocessor(164, 163, 2048, 32),
    (8, 6): Multiprocessor(100, 99, 1536, 16),
    (8, 9): Multiprocessor(100, 99, 1536, 24),
    (9, 0): Multiprocessor(228, 227, 2048, 32),
    (10, 0): Multiprocessor(228, 227, 2048, 32),
    (12, 0): Multiprocessor(100, 99, 1536, 24),
}
_CLOCKS_MHZ = {  # multiprocessors, memory: a usual GPU of each compute capability, from its data sheet
    (7, 0): (1530, 877),
    (7, 5): (1590, 5001),
    (8, 0): (1410, 1593),
    (8, 6): (1695, 9751),
    (8, 9): (2520, 10501),
    (9, 0): (1980, 2619),
    (10, 0): (1965, 3996),
    (12, 0): (2407, 14001),
}
_OWN_CLOCKS_MHZ = {"h200": (1980, 3201)}  # where they move an answer


def kind_of(spec: GpuSpec) -> str:
    """Return the name under which a GPU's answers are kept: its architecture's, or its own if they may differ."""
    return spec.key if spec.key in _OWN_CLOCKS_MHZ else spec.architecture


def properties(spec: GpuSpec) -> dict[str, Any] | None:
    """Return the members of the JSON, in the units of CUDA's device properties; None for an unknown architecture.

    What runs no cuDNN has none: AMD's compute capabilities are numbers of NVIDIA's by chance.
    """
    capability = spec.compute_capability
    limits = _MULTIPROCESSORS.get(capability) if spec.has_cudnn else None
    if limits is None:
        return None
    clock_mhz, memory_clock_mhz = _OWN_CLOCKS_MHZ.get(spec.key, _CLOCKS_MHZ[capability])
    major, minor = capability
    return {
        "deviceName": spec.name,
        "deviceVer": major * 100 + minor * 10,
        "driverVer": _DRIVER,
        "cudaDeviceId": 0,
        "pciDeviceId": 0,
        "isTccDriver": 0,
        "supportCoopLaunch": 1,
        "multiProcessorCount": spec.multi_processor_count,
        "totalGlobalMem": spec.capacity_bytes,
        "l2CacheSize": spec.l2_cache_bytes,
        "smClockRateKHz": clock_mhz * 1000,
        "memClockRateKHz": memory_clock_mhz * 1000,
        "warpSize": 32,
        "regsPerBlock": 65536,
        "maxRegistersPerSM": 65536,
        "maxGridSize": [2**31 - 1, 65535, 65535],
        "maxBlockSize": [1024, 1024, 64],
        "maxThreadsPerBlock": 1024,
        "maxThreadsPerSM": limits.threads,
        "maxCtasPerSM": limits.blocks,
        "maxSharedMemoryPerBlock": 48 * KIB,
        "maxSharedMemoryPerBlockOptin": limits.shared_per_block_kib * KIB,
        "reservedSharedMemoryPerBlock": KIB if major >= 8 else 0,
    }
