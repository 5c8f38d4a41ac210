"""The scratch memory that CUB asks for when it counts and selects elements.

Source: `DeviceReduce` and `DeviceSelect` of CUB 3 (public headers: device/dispatch/dispatch_reduce.cuh and
dispatch_select_if.cuh, agent/single_pass_scan_operators.cuh), and what PyTorch's CUDA build asks for.
"""

from __future__ import annotations

from profiler.gpus.hardware import GpuSpec

_ALIGNMENT = 256  # of each part, and of the address: up to one byte less is lost before the first
_IN_ONE_BLOCK = 4096  # elements that one block adds up: without partial sums
_TILE = 640  # elements that a block selects from: 128 threads, of 5 each
_TILE_OF_HOPPER = 4224  # tuned: 384 threads, of 11 each
_TILES_BEFORE = 32  # a warp looks back beyond the first tile
_STATE_BYTES = 8  # of a tile: how many it selected, and whether that is known


def counting_scratch(elements: int) -> tuple[int, ...]:
    """Return the bytes of a count's partial sums: one byte, which CUB asks for, if there are none.

    A larger count has a sum for each block that is resident at once, which follows from the kernel's registers; it is
    left out, some KiB that are free again before the result is allocated.
    """
    return (1,) if elements <= _IN_ONE_BLOCK else ()


def selecting_scratch(spec: GpuSpec, elements: int) -> tuple[int, ...]:
    """Return the bytes of the states of a selection's tiles, and of its counter."""
    tile = _TILE_OF_HOPPER if spec.compute_capability >= (9, 0) else _TILE
    states = _STATE_BYTES * (-(-elements // tile) + _TILES_BEFORE)
    return (_aligned(states) + _ALIGNMENT + _ALIGNMENT - 1,)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
