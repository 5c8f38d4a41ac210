"""Pinned host memory: what PyTorch's caching host allocator does, by hand and against a second computation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.allocator.clock import H2D, Clock
from profiler.allocator.pinned import PinnedAllocator
from profiler.allocator.settings import Settings, parse_settings
from profiler.errors import InputError
from profiler.units import MIB


def allocator(text: str = "") -> PinnedAllocator:
    return PinnedAllocator(parse_settings(text) if text else Settings(), Clock())


def figures(pinned: PinnedAllocator) -> tuple[int, int, int]:
    """Return (page-locked, owned by the allocator, in use)."""
    return (pinned.pinned_bytes, pinned.allocated_bytes.current, pinned.active_bytes.current)


def test_a_freed_block_stays_pinned_and_serves_the_next_of_its_size_class():
    pinned = allocator()
    first = pinned.allocate(5 * MIB)
    assert figures(pinned) == (8 * MIB, 8 * MIB, 8 * MIB)
    pinned.free(first)
    assert figures(pinned) == (8 * MIB, 8 * MIB, 0)
    assert pinned.allocate(8 * MIB) is first  # the same power of two
    pinned.allocate(3 * MIB)  # another one
    assert figures(pinned) == (12 * MIB, 12 * MIB, 12 * MIB)


def test_emptying_the_cache_unpins_what_nobody_uses():
    pinned = allocator()
    kept, freed = pinned.allocate(4 * MIB), pinned.allocate(4 * MIB)
    pinned.free(freed)
    pinned.empty_cache()
    assert figures(pinned) == (4 * MIB, 4 * MIB, 4 * MIB)
    pinned.free(kept)
    pinned.empty_cache()
    assert figures(pinned) == (0, 0, 0)


def test_a_block_waits_for_the_copy_that_uses_it():
    clock = Clock()
    pinned = PinnedAllocator(Settings(), clock)
    block = pinned.allocate(4 * MIB)
    clock.copy(H2D, 0.0, 2.0)
    pinned.record(block, 0)
    pinned.free(block)
    assert pinned.allocate(4 * MIB) is not block
    assert figures(pinned) == (8 * MIB, 8 * MIB, 8 * MIB)
    clock.join(0)
    assert pinned.allocate(4 * MIB) is block


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # requests of 3, 5 and 48 MiB, all freed: page-locked with them, page-locked without
        ("", (4 + 8 + 64, 4 + 8 + 64)),
        ("pinned_max_round_threshold_mb:4", (4 + 5 + 48, 4 + 5 + 48)),
        ("pinned_max_cached_size_mb:16", (4 + 8 + 48, 4 + 8)),
        ("pinned_reserve_segment_size_mb:16", (16 + 64, 16 + 64)),
        ("pinned_use_cuda_host_register:True,pinned_num_register_threads:8", (76, 76)),
    ],
)
def test_settings_bound_rounding_and_caching(text, expected):
    pinned = allocator(text)
    blocks = [pinned.allocate(size * MIB) for size in (3, 5, 48)]
    held = pinned.pinned_bytes
    for block in blocks:
        pinned.free(block)
    assert (held // MIB, pinned.pinned_bytes // MIB) == expected


def test_the_reserved_segment_is_never_given_back():
    pinned = allocator("pinned_reserve_segment_size_mb:16")
    pinned.free(pinned.allocate(8 * MIB))
    pinned.empty_cache()
    assert figures(pinned) == (16 * MIB, 0, 0)


@pytest.mark.parametrize(
    "text", ["pinned_num_register_threads:3", "pinned_num_register_threads:256", "pinned_max_cached_size_mb:-1"]
)  # fmt: skip
def test_settings_that_pytorch_refuses_are_refused(text):
    with pytest.raises(InputError, match=text.split(":", maxsplit=1)[0]):
        parse_settings(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40_000_000), st.integers(0, 3)), max_size=30))
def test_what_is_page_locked_is_the_most_that_was_in_use_in_each_size_class(requests):
    """Without copies to wait for: a class never holds more blocks than were in use at once."""
    pinned = allocator()
    live: list[tuple[int, object]] = []
    most: dict[int, int] = {}
    for nbytes, frees in requests:
        size = 1
        while size < nbytes:
            size *= 2
        live.append((size, pinned.allocate(nbytes)))
        most[size] = max(most.get(size, 0), sum(one == size for one, _ in live))
        for _ in range(min(frees, len(live))):
            pinned.free(live.pop(0)[1])
    assert figures(pinned) == (
        sum(size * count for size, count in most.items()),
        sum(size * count for size, count in most.items()),
        sum(size for size, _ in live),
    )
