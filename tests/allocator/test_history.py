"""Torch's memory history of the virtual allocator: what it did, told entry by entry."""

from __future__ import annotations

import pytest

from profiler.allocator.caching import Allocator, BlockTooLargeError
from profiler.allocator.clock import Clock
from profiler.allocator.history import History
from profiler.allocator.settings import parse_settings
from profiler.units import MIB

LIMIT = 96 * MIB


def recorded(allocator, clock, **settings):
    """Return a history that records."""
    history = History(allocator, clock)
    history.record("all", **{"most": 1 << 40, "clear": False, "skipped": ()} | settings)
    return history


def told(history):
    """Return the entries without their times."""
    (entries,) = history.snapshot()["device_traces"]
    rows = []
    for entry in entries:
        place = entry.get("addr", entry.get("device_free"))
        rows.append((entry["action"], place, entry["size"], entry["stream"]))
    return rows


def test_every_action_is_told_with_the_bytes_that_torch_tells():
    """Blocks by what was asked for, segments whole, out of memory rounded, a snapshot by what is active."""
    clock = Clock()
    allocator = Allocator(24 * MIB, clock=clock)
    history = recorded(allocator, clock)
    stream = clock.add_stream()
    first = allocator.allocate(1000)
    at = first.address
    history.metadata = "later"
    allocator.record_stream(first, stream)
    clock.current = stream
    clock.launch(0.0, 1.0)
    allocator.free(first)  # waits for the stream, which takes a second
    allocator.touch(3 * MIB)
    with pytest.raises(BlockTooLargeError):
        allocator.allocate(25 * MIB + 1)
    history.segments()
    entries = told(history)
    large = entries[3][1]
    assert entries == [
        ("segment_alloc", at, 2 * MIB, 0),
        ("alloc", at, 1000, 0),
        ("free_requested", at, 1000, 0),
        ("segment_alloc", large, 20 * MIB, 0),
        ("alloc", large, 3 * MIB, 0),
        ("free_requested", large, 3 * MIB, 0),
        ("free_completed", large, 3 * MIB, 0),
        ("free_completed", at, 1000, 0),  # the cache is emptied, which waits for the stream
        ("segment_free", large, 20 * MIB, 0),
        ("segment_free", at, 2 * MIB, 0),
        ("oom", 24 * MIB, 25 * MIB + 512, 0),
        ("snapshot", 0, 0, 0),
    ]
    (plain,) = history.snapshot()["device_traces"]
    assert [entry["user_metadata"] for entry in plain] == [""] * 2 + ["later"] * 11
    assert plain[0] == {
        "action": "segment_alloc",
        "addr": at,
        "size": 2 * MIB,
        "stream": 0,
        "time_us": 0,
        "compile_context": "N/A",
        "user_metadata": "",
        "pool_id": (0, 0),
        "frames": [],
    }
    assert plain[2]["time_us"] == 0
    assert plain[7]["time_us"] == 1_000_000
    assert plain[10]["device_free"] == 24 * MIB


def test_pages_of_expandable_segments_are_mapped_and_unmapped():
    clock = Clock()
    allocator = Allocator(LIMIT, parse_settings("expandable_segments:True"), clock)
    history = recorded(allocator, clock)
    first, second = allocator.allocate(30 * MIB), allocator.allocate(30 * MIB)
    base = first.address
    allocator.free(second)
    allocator.empty_cache()
    assert told(history) == [
        ("segment_map", base, 40 * MIB, 0),
        ("alloc", base, 30 * MIB, 0),
        ("segment_map", base + 40 * MIB, 20 * MIB, 0),
        ("alloc", base + 30 * MIB, 30 * MIB, 0),
        ("free_requested", base + 30 * MIB, 30 * MIB, 0),
        ("free_completed", base + 30 * MIB, 30 * MIB, 0),
        ("segment_unmap", base + 40 * MIB, 20 * MIB, 0),
    ]


def test_a_ring_keeps_the_last_and_state_keeps_one():
    clock = Clock()
    allocator = Allocator(LIMIT, clock=clock)
    history = recorded(allocator, clock, most=3)
    for _ in range(3):
        allocator.touch(512)
    assert [action for action, *_ in told(history)] == ["alloc", "free_requested", "free_completed"]
    history.record("state", most=100, clear=False, skipped=())
    assert [action for action, *_ in told(history)] == ["snapshot"]
    history.record("all", most=100, clear=True, skipped=("free_completed",))
    allocator.touch(512)
    assert [action for action, *_ in told(history)] == ["alloc", "free_requested"]
    history.record(None, most=100, clear=False, skipped=())
    allocator.touch(512)
    assert told(history) == []
    assert not history.recording
    assert allocator.note is allocator.segments.note is None


def test_what_is_freed_in_the_middle_of_a_request_is_told_behind_it():
    """As Python's garbage collector does: at no moment is less told to be held than was."""
    clock = Clock()
    allocator = Allocator(LIMIT, clock=clock)
    kept = allocator.allocate(512)
    history = recorded(allocator, clock)
    with allocator.undisturbed():
        allocator.free(kept)
    assert [action for action, *_ in told(history)] == ["free_requested", "free_completed"]
