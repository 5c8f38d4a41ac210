"""A recording of the allocator, followed entry by entry, gives its own figures back."""

from __future__ import annotations

import random

import pytest

from profiler.allocator import report as allocator_report
from profiler.allocator.caching import Allocator, BlockTooLargeError
from profiler.allocator.clock import Clock
from profiler.allocator.history import History
from profiler.allocator.history_replay import BlockReplay, DoesNotAddUpError, highest
from profiler.allocator.settings import parse_settings
from profiler.units import MIB

SETTINGS = {
    "default": "",
    "expandable": "expandable_segments:True",
    "never split": "max_split_size_mb:20",
    "rounded": "roundup_power2_divisions:4",
    "collected": "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
}
LIMIT = 96 * MIB


class Watched(History):
    """A history that also keeps the allocator's own figures at each entry."""

    def note(self, action, address, size, stream):
        super().note(action, address, size, stream)
        figures = self._allocator.all
        self.figures.append(
            (
                figures.allocated_bytes.current,
                figures.active_bytes.current,
                figures.reserved_bytes.current,
                figures.requested_bytes.current,
                figures.allocation.current,
            )
        )


def play(allocator, clock, rng, held, times):
    """Allocate and free at random, on three streams."""
    streams = [0, clock.add_stream(), clock.add_stream()]
    for _ in range(times):
        what = rng.random()
        if what < 0.5:
            size = int(2 ** rng.uniform(5, 24.6))
            try:
                held.append(allocator.allocate(size, rng.choice(streams)))
            except BlockTooLargeError:
                continue
        elif what < 0.9 and held:
            block = held.pop(rng.randrange(len(held)))
            if rng.random() < 0.3:
                allocator.record_stream(block, rng.choice(streams))
            allocator.free(block)
        elif what < 0.94:
            allocator.empty_cache()
        else:
            clock.current = rng.choice(streams)
            clock.launch(1e-6, rng.choice([0.0, 1e-3]))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_makes_the_allocator_s_own_figures_at_every_entry(settings, seed):
    """Sums of what was asked for, and the blocks that a replay finds behind it, from any moment on."""
    rng, clock = random.Random(seed), Clock()
    allocator = Allocator(LIMIT, parse_settings(SETTINGS[settings]), clock)
    if settings == "collected":
        allocator.segments.allowed_bytes = int(0.9 * LIMIT)
    held = []
    play(allocator, clock, rng, held, 60)
    before = allocator_report.snapshot(allocator)
    requested = allocator.all.requested_bytes.current
    count = allocator.all.allocation.current
    allocator.reset_peak()
    history = Watched(allocator, clock)
    history.figures = []
    history.record("all", most=1 << 40, clear=False, skipped=())
    play(allocator, clock, rng, held, 400)
    snapshot = history.snapshot()
    (entries,) = snapshot["device_traces"]
    replay = BlockReplay(before, allocator.settings)
    for number, (entry, own) in enumerate(zip(entries, history.figures, strict=False)):
        replay.follow(number, entry)
        requested += {"alloc": 1, "free_completed": -1}.get(entry["action"], 0) * entry["size"]
        count += {"alloc": 1, "free_requested": -1}.get(entry["action"], 0)
        assert own == (
            replay.allocated_bytes,
            replay.active_bytes,
            replay.reserved_bytes,
            requested,
            count,
        ), (number, entry)
    assert len({entry["action"] for entry in entries}) >= 5
    peak = highest(before, entries, snapshot["segments"], allocator.settings)
    assert peak.allocated_bytes == allocator.peak_bytes
    assert sum(block.size for block in peak.held) == allocator.peak_bytes


def test_a_recording_with_a_gap_is_no_truth():
    clock = Clock()
    allocator = Allocator(LIMIT, clock=clock)
    history = History(allocator, clock)
    history.record("all", most=1 << 40, clear=False, skipped=())
    held = [allocator.allocate(size) for size in (700, 3 * MIB, 900)]
    allocator.free(held[1])
    snapshot = history.snapshot()
    (entries,) = snapshot["device_traces"]
    settings = allocator.settings
    whole = highest([], entries, snapshot["segments"], settings)
    assert whole.allocated_bytes == 1024 + 3 * MIB + 1024
    for number in range(len(entries)):
        rest = [*entries[:number], *entries[number + 1 :]]
        with pytest.raises(DoesNotAddUpError):
            highest([], rest, snapshot["segments"], settings)
