"""The blocks in use at the highest point of a recording, and their true sizes.

Torch records what was requested, not the block that served it. The block follows from the free memory at its address:
it begins where free memory begins, and is cut to the rounded request or takes all of it. So the free memory is
followed, entry by entry, from what a snapshot before the recording showed.

Source: `should_split`, `round_size` and `try_merge_blocks` in PyTorch's c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from profiler.allocator.settings import (
    BLOCK_BYTES,
    SMALL_REQUEST_BYTES,
    Settings,
    parse_settings,
    settings_from_environment,
)


class LiveBlock(NamedTuple):
    """A block in use.

    Attributes:
        address, size: its address and length.
        requested: the bytes requested.
        entry: the entry that allocated it; -1 for one that was there before.
    """

    address: int
    size: int
    requested: int
    entry: int


class DoesNotAddUpError(Exception):
    """Missing entries: those recorded do not account for the blocks."""


class BlockReplay:
    """Follows blocks through a recording.

    Args:
        segments: a snapshot's, of one device, from before the first entry.
        settings: the allocator's settings.

    Attributes:
        held: the blocks in use, by address.
        waiting: the freed blocks that a stream still uses.
        allocated_bytes, active_bytes, reserved_bytes: as the allocator counts them.
    """

    def __init__(self, segments: Iterable[dict[str, Any]], settings: Settings) -> None:
        self._settings = settings
        self.held: dict[int, LiveBlock] = {}
        self.waiting: dict[int, LiveBlock] = {}
        self.allocated_bytes = self.active_bytes = self.reserved_bytes = 0
        self._free: dict[int, int] = {}  # begin to end, neighbours joined
        self._ends: dict[int, int] = {}  # end to begin
        self._starts: set[int] = set()  # of segments; free memory is not joined across them
        for segment in segments:
            self._begin_with(segment)
        self._steps: dict[str, Callable[[int, int, int], None]] = {
            "alloc": self._allocate,
            "free_requested": self._let_go,
            "free_completed": self._complete,
            "segment_alloc": self._grow,
            "segment_free": self._shrink,
            "segment_map": self._map,
            "segment_unmap": self._unmap,
        }

    def follow(self, number: int, entry: dict[str, Any]) -> None:
        """Apply an entry.

        Raises:
            DoesNotAddUpError: if it cannot have happened to these blocks.
        """
        step = self._steps.get(entry["action"])
        if step is None:
            return
        try:
            step(number, entry["addr"], entry["size"])
        except KeyError as error:
            raise DoesNotAddUpError(f"entry {number}, {entry['action']}") from error

    def _begin_with(self, segment: dict[str, Any]) -> None:
        address, size = segment["address"], segment["total_size"]
        self.reserved_bytes += size
        if not segment["is_expandable"]:
            self._starts.add(address)
        for block in segment["blocks"]:
            begin, end = block["address"], block["address"] + block["size"]
            if block["state"] == "inactive":
                self._join(begin, end)
                continue
            held = LiveBlock(begin, block["size"], block["requested_size"], -1)
            self.active_bytes += held.size
            if block["state"] == "active_allocated":
                self.held[begin] = held
                self.allocated_bytes += held.size
            else:
                self.waiting[begin] = held

    def check(self, segments: Iterable[dict[str, Any]]) -> None:
        """Compare with what a snapshot shows.

        Raises:
            DoesNotAddUpError: unless its segments hold the blocks that the replay arrived at.
        """
        rebuilt = BlockReplay(segments, self._settings)
        for ours, theirs in ((self.held, rebuilt.held), (self.waiting, rebuilt.waiting)):
            if {block[:3] for block in ours.values()} != {block[:3] for block in theirs.values()}:
                raise DoesNotAddUpError("the blocks at the end")
        if self.reserved_bytes != rebuilt.reserved_bytes:
            raise DoesNotAddUpError("the segments at the end")

    # -- blocks

    def _allocate(self, number: int, address: int, requested: int) -> None:
        end = self._take(address)
        rounded = max(self._settings.round(requested), BLOCK_BYTES)
        size = rounded if self._splits(rounded, end - address - rounded) else end - address
        if size < end - address:
            self._join(address + size, end)
        self.held[address] = LiveBlock(address, size, requested, number)
        self.allocated_bytes += size
        self.active_bytes += size

    def _splits(self, rounded: int, rest: int) -> bool:
        if rounded <= SMALL_REQUEST_BYTES or self._settings.expandable_segments:
            return rest >= BLOCK_BYTES
        return rounded < self._settings.max_split_bytes and rest > SMALL_REQUEST_BYTES

    def _let_go(self, _: int, address: int, __: int) -> None:
        block = self.waiting[address] = self.held.pop(address)
        self.allocated_bytes -= block.size

    def _complete(self, _: int, address: int, __: int) -> None:
        block = self.waiting.pop(address)
        self.active_bytes -= block.size
        self._join(address, address + block.size)

    # -- free memory

    def _take(self, begin: int) -> int:
        end = self._free.pop(begin)
        del self._ends[end]
        return end

    def _join(self, begin: int, end: int) -> None:
        if end in self._free and end not in self._starts:
            end = self._take(end)
        if begin in self._ends and begin not in self._starts:
            begin = self._ends.pop(begin)
        self._free[begin] = end
        self._ends[end] = begin

    # -- segments

    def _grow(self, _: int, address: int, size: int) -> None:
        self._starts.add(address)
        self._map(_, address, size)

    def _shrink(self, _: int, address: int, size: int) -> None:
        if self._take(address) != address + size:
            raise KeyError(address)
        self._starts.remove(address)
        self.reserved_bytes -= size

    def _map(self, _: int, address: int, size: int) -> None:
        self.reserved_bytes += size
        self._join(address, address + size)

    def _unmap(self, _: int, address: int, size: int) -> None:
        begin, end = address, address + size
        around = next(free for free in self._free.items() if free[0] <= begin and end <= free[1])
        self._take(around[0])
        if around[0] < begin:
            self._join(around[0], begin)
        if end < around[1]:
            self._join(end, around[1])
        self.reserved_bytes -= size


def segments_of(segments: Iterable[dict[str, Any]], device: int) -> list[dict[str, Any]]:
    """Return the segments of one device."""
    return [segment for segment in segments if segment["device"] == device]


def settings_of(snapshot: dict[str, Any]) -> Settings:
    """Return the allocator's settings at the time of a snapshot; raise InputError if a setting is unknown."""
    text = snapshot["allocator_settings"].get("PYTORCH_CUDA_ALLOC_CONF")
    return parse_settings(text) if text else settings_from_environment()


class Peak(NamedTuple):
    """The highest point of a recording.

    Attributes:
        allocated_bytes: the bytes allocated there.
        held: the blocks in use there, by address.
    """

    allocated_bytes: int
    held: tuple[LiveBlock, ...]


def highest(
    before: list[dict[str, Any]],
    entries: list[dict[str, Any]],
    after: list[dict[str, Any]],
    settings: Settings,
) -> Peak:
    """Return the highest point of a recording, the first if several are equally high.

    Args:
        before: the segments of the device before the first entry.
        entries: the entries recorded since.
        after: the segments of the device after the last entry.
        settings: the allocator's settings.

    Raises:
        DoesNotAddUpError: if the blocks before, changed by the entries, are not the blocks after.
    """
    replay = BlockReplay(before, settings)
    peak_bytes, at = replay.allocated_bytes, -1
    blocks: list[LiveBlock | None] = []
    for number, entry in enumerate(entries):
        replay.follow(number, entry)
        blocks.append(replay.held[entry["addr"]] if entry["action"] == "alloc" else None)
        if replay.allocated_bytes > peak_bytes:
            peak_bytes, at = replay.allocated_bytes, number
    replay.check(after)
    held = dict(BlockReplay(before, settings).held)
    for entry, block in zip(entries[: at + 1], blocks, strict=False):
        if block is not None:
            held[block.address] = block
        elif entry["action"] == "free_requested":
            del held[entry["addr"]]
    assert sum(block.size for block in held.values()) == peak_bytes, peak_bytes
    return Peak(peak_bytes, tuple(held[address] for address in sorted(held)))
