"""The statistics, snapshots and error messages of the caching allocator, with PyTorch's keys and wording.

Source: `THCPModule_memoryStats` and `THCPModule_memorySnapshot` in PyTorch's torch/csrc/cuda/Module.cpp, `format_size`
and the message of `malloc` in c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from profiler.allocator.blocks import Block
from profiler.allocator.caching import Allocator
from profiler.allocator.settings import UNLIMITED
from profiler.units import GIB, KIB, MIB


def nested_stats(allocator: Allocator) -> dict[str, Any]:
    """Return what `torch.cuda.memory_stats_as_nested_dict` returns."""
    small, large = allocator.pools
    tallies = {"all": allocator.all, "small_pool": small.tally, "large_pool": large.tally}
    limit = allocator.settings.max_split_bytes
    return {
        "num_alloc_retries": allocator.retries,
        "num_ooms": allocator.failures,
        "num_sync_all_streams": allocator.flushes,
        "num_device_alloc": allocator.segments.allocations,
        "num_device_free": allocator.segments.frees,
        "num_oom_rejections": 0,
        "max_split_size": -1 if limit == UNLIMITED else limit,
        "oversize_allocations": allocator.oversize.figures(),
        "oversize_segments": allocator.segments.oversize.figures(),
        "reserved_bytes_by_private_pools": {},
        **{
            name: {kind: tally.stats()[name].figures() for kind, tally in tallies.items()}
            for name in allocator.all.stats()
        },
    }


def flat_stats(allocator: Allocator) -> OrderedDict[str, int]:
    """Return what `torch.cuda.memory_stats` returns."""
    return OrderedDict(sorted(_flat("", nested_stats(allocator))))


def _flat(prefix: str, figures: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, figure in figures.items():
        if isinstance(figure, dict):
            yield from _flat(f"{prefix}{name}.", figure)
        else:
            yield prefix + name, figure


def snapshot(allocator: Allocator) -> list[dict[str, Any]]:
    """Return what `torch.cuda.memory_snapshot` returns: segments, or the mapped stretches of expandable ones."""
    return [
        _segment(stretch) for chain in allocator.segments for stretch in _mapped_stretches(chain)
    ]


def _mapped_stretches(chain: list[Block]) -> Iterator[list[Block]]:
    stretch: list[Block] = []
    for block in chain:
        if block.mapped:
            stretch.append(block)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _segment(blocks: list[Block]) -> dict[str, Any]:
    head = blocks[0]
    active = [block for block in blocks if not block.free]
    return {
        "device": 0,
        "address": head.address,
        "total_size": sum(block.size for block in blocks),
        "allocated_size": sum(block.size for block in active if block.allocated),
        "active_size": sum(block.size for block in active),
        "requested_size": sum(block.requested for block in active),
        "stream": head.stream,
        "segment_type": "small" if head.pool.small else "large",
        "segment_pool_id": (0, 0),
        "is_expandable": head.segment is not None,
        "frames": [],
        "blocks": [_block(block) for block in blocks],
    }


def _block(block: Block) -> dict[str, Any]:
    # Torch's documentation says `active_awaiting_free`; its C++ code says this.
    state = "active_allocated" if block.allocated else "active_pending_free"
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": 0 if block.free else block.requested,
        "state": "inactive" if block.free else state,
        "frames": [],
    }


def out_of_memory(  # each figure of the sentence has its own name
    allocator: Allocator,
    segment_bytes: int,
    *,
    capacity_bytes: int,
    context_bytes: int,
    free_bytes: int,
    hip: bool = False,
) -> str:
    """Return the message of `torch.cuda.OutOfMemoryError` for a segment that could not be allocated.

    That of ROCm's build (`hip`) does not say what the process has in use besides.
    """
    held = allocator.allocated_bytes
    used = context_bytes + allocator.reserved_bytes
    allowed = allocator.segments.allowed_bytes
    in_use = f"Including non-PyTorch memory, this process has {_size(used)} memory in use. "
    return (
        f"{'HIP' if hip else 'CUDA'} out of memory. Tried to allocate {_size(segment_bytes)}. GPU 0 has a total "
        f"capacity of {_size(capacity_bytes)} of which {_size(free_bytes)} is free. {'' if hip else in_use}"
        f"{'' if allowed is None else f'{_size(allowed)} allowed; '}"
        f"Of the allocated memory {_size(held)} is allocated by PyTorch, and "
        f"{_size(allocator.reserved_bytes - held)} is reserved by PyTorch but unallocated. If reserved but "
        "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
        "fragmentation.  See documentation for Memory Management  "
        "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
    )


def _size(nbytes: int) -> str:
    """Return `nbytes` in PyTorch's notation: a whole GiB is `1024.00 MiB`."""
    if nbytes <= KIB:
        return f"{nbytes} bytes"
    for unit, name in ((KIB, "KiB"), (MIB, "MiB")):
        if nbytes <= unit * KIB:
            return f"{nbytes / unit:.2f} {name}"
    return f"{nbytes / GIB:.2f} GiB"
