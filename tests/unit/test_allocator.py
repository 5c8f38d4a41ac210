"""The allocator against literal figures, and against a second, dumb count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.virtual.allocator import Allocator, BlockTooLargeError, round_block

MIB = 1 << 20


def figures(allocator):
    return (
        allocator.allocated_bytes,
        allocator.peak_bytes,
        allocator.reserved_bytes,
        allocator.peak_reserved_bytes,
    )


def test_requests_are_rounded_to_512_and_the_cache_outlives_what_is_freed():
    allocator = Allocator(64 * MIB)
    one = allocator.allocate(1)
    three = allocator.allocate(3 * MIB + 1)
    # 512 + (3 MiB + 512), reserved in steps of 2 MiB.
    assert figures(allocator) == (3 * MIB + 1024, 3 * MIB + 1024, 4 * MIB, 4 * MIB)
    allocator.free(three)
    assert figures(allocator) == (512, 3 * MIB + 1024, 4 * MIB, 4 * MIB)
    allocator.empty_cache()
    allocator.reset_peak()
    assert figures(allocator) == (512, 512, 2 * MIB, 2 * MIB)
    allocator.free(one)
    assert allocator.allocated_bytes == 0


def test_what_exceeds_the_limit_is_refused_and_changes_nothing():
    allocator = Allocator(4 * MIB)
    allocator.allocate(3 * MIB)
    before = figures(allocator)
    with pytest.raises(BlockTooLargeError) as refused:
        allocator.allocate(2 * MIB)
    assert (refused.value.requested_bytes, figures(allocator)) == (2 * MIB, before)
    assert allocator.fits(MIB)
    assert not allocator.fits(MIB + 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60))
def test_figures_equal_a_dumb_recount(steps):
    allocator = Allocator(1 << 40)
    live: list[int] = []
    peak = 0
    for free, size in steps:
        if free and live:
            allocator.free(live.pop(size % len(live)))
        else:
            live.append(allocator.allocate(size))
            assert live[-1] == round_block(size) == -(-size // 512) * 512
        peak = max(peak, sum(live))
        assert (allocator.allocated_bytes, allocator.peak_bytes) == (sum(live), peak)
        assert allocator.reserved_bytes >= allocator.allocated_bytes
