"""Torch's peak statistics on a real card: reset at every boundary, and afterwards as if nobody had looked.

Torch has no way to set a peak. It is reached again: what is missing is allocated for a moment and given back, first out
of the cache, where that takes nothing from the driver; where the cache was emptied since the peak, from a segment that
goes back to the driver at once, while all that was cached is held, so that the cache is afterwards what it was. This is
done only where the driver has that much free.

What remains: the peaks of `torch.cuda.max_memory_allocated` and `max_memory_reserved` are restored, others of
`torch.cuda.memory_stats` are those since the last boundary, and its counters of allocations count ours. Allocated may
stay up to 2 MiB short where no cached block can be cut to measure. Both stay short where the driver has less free than
the peak took; reserved does where it was far above allocated and the cache was emptied since, or where what is cached
now is more than was ever allocated. Neither comes out too high, but reserved with expandable segments, by up to two of
their pages. Nothing is done with other allocators than PyTorch's own, nor with settings under which a block does not
serve the request of its size: rounding, blocks that are not split, other segments, garbage collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from profiler.allocator.settings import Settings, settings_from_environment
from profiler.errors import InputError
from profiler.patching import Patches
from profiler.units import MIB

# Source: kMinBlockSize, kSmallSize, kSmallBuffer, kMinLargeAlloc, kLargeBuffer in PyTorch's c10/core/AllocatorConfig.h.
_BLOCK_BYTES = 512
_SMALL_BYTES = MIB
_SMALL_SEGMENT_BYTES = 2 * MIB
_LARGE_BYTES = 10 * MIB
_SHARED_SEGMENT_BYTES = 20 * MIB
_DRIVER_MARGIN_BYTES = 64 * MIB
_HARMLESS: dict[str, Any] = {
    "expandable_segments": False,
    "memory_fraction": 1.0,
    "pinned_max_round_bytes": 0,
    "pinned_max_cached_bytes": 0,
    "pinned_reserve_bytes": 0,
}


class Figures(NamedTuple):
    """What torch says of its allocator."""

    peak_bytes: int
    allocated_bytes: int
    peak_reserved_bytes: int
    reserved_bytes: int


def figures() -> Figures:
    """Return the four in one reading: torch puts all its statistics together for each that is asked for by name."""
    stats = torch.cuda.memory_stats_as_nested_dict()
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return Figures(allocated["peak"], allocated["current"], reserved["peak"], reserved["current"])


class Peaks:
    """Takes peaks, one interval after the other, and knows what torch would say without that.

    While it watches, `torch.cuda.max_memory_allocated` and its kin say that, too, and a reset by somebody else loses
    no peak.
    """

    def __init__(self) -> None:
        self._users = figures()  # whose peaks are those since somebody else's last reset
        self._carried = 0
        self._reset = torch.cuda.reset_peak_memory_stats
        self._reset()

    def take(self) -> Figures:
        """Return the figures with the peaks since the last call, and begin anew."""
        now = self._taken()
        carried, self._carried = self._carried, 0
        return now._replace(peak_bytes=max(now.peak_bytes, carried))

    def watch(self, patches: Patches) -> None:
        """Answer for torch until `patches` are restored."""
        ours = {
            "max_memory_allocated": lambda: self._seen(figures()).peak_bytes,
            "max_memory_reserved": lambda: self._seen(figures()).peak_reserved_bytes,
            "reset_peak_memory_stats": self._forget,
        }
        for owner in (torch.cuda, torch.cuda.memory):
            for name, answer in ours.items():
                patches.replace(owner, name, _for_this_card(answer, getattr(owner, name)))

    def put_back(self) -> None:
        """Let torch's own statistics say it."""
        self._taken()
        _raise_peaks(self._users.peak_bytes, self._users.peak_reserved_bytes)

    def _taken(self) -> Figures:
        now = figures()
        self._users = self._seen(now)
        self._reset()
        return now

    def _seen(self, now: Figures) -> Figures:
        return Figures(*map(max, self._users, now))

    def _forget(self) -> None:
        """Somebody resets the peaks: what the interval had before is not lost to it."""
        now = self._taken()
        self._carried = max(self._carried, now.peak_bytes)
        self._users = Figures(now.allocated_bytes, 0, now.reserved_bytes, 0)


def _for_this_card(ours: Callable[[], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def answer(device: Any = None) -> Any:
        index = device if isinstance(device, int | None) else torch.device(device).index
        if index is None or index == torch.cuda.current_device():
            return ours()
        return original(device)

    answer.__name__, answer.__doc__ = original.__name__, original.__doc__
    return answer


# -- reaching a peak again


def _raise_peaks(allocated_bytes: int, reserved_bytes: int) -> None:
    now = figures()
    if now.peak_bytes >= allocated_bytes and now.peak_reserved_bytes >= reserved_bytes:
        return
    if torch.cuda.get_allocator_backend() != "native" or not _serves_exactly():
        return
    missing = reserved_bytes - now.reserved_bytes
    free_bytes, _ = torch.cuda.mem_get_info()
    room = missing > 0 and now.reserved_bytes < allocated_bytes
    try:
        if room and free_bytes >= missing + _DRIVER_MARGIN_BYTES:
            _reach_with_segments(allocated_bytes, missing, now.reserved_bytes)
        else:
            _reach_in_cache(allocated_bytes - now.allocated_bytes)
    except torch.cuda.OutOfMemoryError:
        return  # somebody else has taken what was free; the docstring says what that leaves


def _serves_exactly() -> bool:
    """Tell whether, as the allocator is set, a free block serves the request of its size, and nothing else happens."""
    try:
        settings = settings_from_environment()
    except InputError:
        return False
    return replace(settings, **_HARMLESS) == replace(Settings(), **_HARMLESS)


def _reach_in_cache(missing: int) -> None:
    """Allocate `missing` bytes out of what is cached, as far as its blocks can be cut so."""
    with _holding() as hold:
        larger: dict[
            tuple[int, bool], _Cached
        ] = {}  # the smallest, which serves its pool and stream
        for block in _cached_blocks():
            if block.size <= missing:
                hold(block.size, block.stream)
                missing -= block.size
            else:
                larger[block.stream, block.small] = block
        most, stream = max(
            ((block.most_of(missing), block.stream) for block in larger.values()), default=(0, 0)
        )
        if most:
            hold(most, stream)


def _reach_with_segments(allocated_bytes: int, missing_reserved: int, reserved: int) -> None:
    """Hold the whole cache, and allocate the rest in new segments, which go back to the driver."""
    stream = torch.cuda.current_stream().cuda_stream
    with _holding() as hold:
        for block in _cached_blocks():
            hold(block.size, block.stream)
        try:
            now = figures()
            room = allocated_bytes - now.allocated_bytes
            if now.reserved_bytes == reserved and room > 0:
                _allocate_anew(room, missing_reserved, stream)
        finally:
            torch.cuda.empty_cache()


def _allocate_anew(room: int, missing_reserved: int, stream: int) -> None:
    """Allocate `room` bytes where nothing is cached, and let so much be reserved.

    What was reserved beyond the allocated is asked for first, in blocks that cannot serve what is asked for next.
    """
    large, small = _cut_up(room, missing_reserved)
    beyond = missing_reserved - _large_segment(large) - _small_segments(small)
    if _LARGE_BYTES <= beyond < large:
        with _holding() as hold:
            hold(beyond, stream)
    elif beyond < _LARGE_BYTES <= large:
        with _holding() as hold:
            for size in _pieces(beyond + _small_segments(small)):
                hold(size, stream)
    with _holding() as hold:
        for size in (large, *_pieces(small)):
            if size:
                hold(size, stream)


def _cut_up(room: int, missing_reserved: int) -> tuple[int, int]:
    """Return what to ask of the large and of the small pool, so that new segments take no more than is missing.

    A rest of up to 1 MiB is not cut off a large block, so it is none of the last 2 MiB that a segment is rounded to.
    """
    if room >= _LARGE_BYTES:
        small = room % _SMALL_SEGMENT_BYTES
        return room - small, small
    if room > _SMALL_BYTES and missing_reserved >= _SHARED_SEGMENT_BYTES:
        return room, 0
    return 0, room


def _large_segment(nbytes: int) -> int:
    """Return what such a request reserves. Source: `get_allocation_size`."""
    return _SHARED_SEGMENT_BYTES if 0 < nbytes < _LARGE_BYTES else nbytes


def _small_segments(nbytes: int) -> int:
    """Return what requests of the small pool reserve that add up to so much."""
    return -(-nbytes // _SMALL_SEGMENT_BYTES) * _SMALL_SEGMENT_BYTES


class _Cached(NamedTuple):
    """A free block."""

    size: int
    stream: int
    small: bool

    def most_of(self, nbytes: int) -> int:
        """Return the most of fewer bytes than it has that can be cut off it. Source: `get_pool`, `should_split`."""
        if self.small:
            return nbytes
        most = min(nbytes, self.size - _SMALL_BYTES - _BLOCK_BYTES)
        return most if most > _SMALL_BYTES else 0


def _cached_blocks() -> list[_Cached]:
    """Return the free blocks, each as requests that get it to the last byte, the largest first.

    The small pool serves no request above 1 MiB, so its blocks are taken piece by piece. Best fit then finds for each
    request a block that one of them was meant for, since those of a size are asked for together.
    """
    found: list[_Cached] = []
    for segment in torch.cuda.memory_snapshot(include_traces=False):
        if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0):
            continue  # of a CUDA graph
        stream, small = segment["stream"], segment["segment_type"] == "small"
        sizes = [block["size"] for block in segment["blocks"] if block["state"] == "inactive"]
        if small:
            sizes = [piece for size in sizes for piece in _pieces(size)]
        found += [_Cached(size, stream, small) for size in sizes if small or size > _SMALL_BYTES]
    return sorted(found, key=lambda block: -block.size)


def _pieces(nbytes: int) -> list[int]:
    whole, rest = divmod(nbytes, _SMALL_BYTES)
    return [_SMALL_BYTES] * whole + [rest] * bool(rest)


@contextmanager
def _holding() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that allocates (bytes, stream); all is given back."""
    held: list[int] = []

    def hold(nbytes: int, stream: int) -> None:
        held.append(torch.cuda.caching_allocator_alloc(nbytes, stream=stream))

    try:
        yield hold
    finally:
        while held:
            torch.cuda.caching_allocator_delete(held.pop())
