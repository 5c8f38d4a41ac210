"""The allocator against literal sequences worked out from PyTorch's source."""

import pytest

from profiler.allocator.caching import Allocator, BlockTooLargeError
from profiler.allocator.clock import Clock
from profiler.allocator.settings import Settings

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def figures(allocator):
    return (
        allocator.allocated_bytes,
        allocator.peak_bytes,
        allocator.reserved_bytes,
        allocator.peak_reserved_bytes,
    )


def layout(allocator):
    """Return each segment as its blocks' sizes; what is free stands negative."""
    return [[-b.size if b.free else b.size for b in chain] for chain in allocator.segments]


def test_small_requests_share_a_segment_of_2_mib():
    allocator = Allocator(64 * MIB)
    allocator.allocate(1)
    allocator.allocate(1 * MIB)
    # 512 + 1 MiB of 2 MiB: 1 MiB - 512 left, so another MiB needs another segment.
    allocator.allocate(1 * MIB)
    assert layout(allocator) == [[512, MIB, -(MIB - 512)], [MIB, -MIB]]
    assert figures(allocator) == (2 * MIB + 512, 2 * MIB + 512, 4 * MIB, 4 * MIB)


def test_requests_between_1_and_10_mib_share_a_segment_of_20_mib():
    allocator = Allocator(64 * MIB)
    allocator.allocate(1 * MIB + 1)
    allocator.allocate(10 * MIB - 512)
    # 20 MiB - (1 MiB + 512) - (10 MiB - 512) = 9 MiB.
    assert layout(allocator) == [[MIB + 512, 10 * MIB - 512, -9 * MIB]]


def test_requests_from_10_mib_get_a_segment_in_steps_of_2_mib():
    allocator = Allocator(64 * MIB)
    for size in (10 * MIB, 11 * MIB, 12 * MIB + 512):
        allocator.allocate(size)
    # A rest of 1 MiB is no more than kSmallSize and stays with the block; 2 MiB - 512 is split off.
    assert layout(allocator) == [[10 * MIB], [12 * MIB], [12 * MIB + 512, -(2 * MIB - 512)]]
    # What could not be split off counts as allocated.
    assert allocator.allocated_bytes == 34 * MIB + 512
    assert allocator.all.requested_bytes.current == 33 * MIB + 512


def test_the_smallest_block_that_fits_is_taken_and_the_first_among_equals():
    allocator = Allocator(256 * MIB)
    held = [allocator.allocate(size * MIB) for size in (30, 12, 20, 12)]
    for block in held:
        allocator.free(block)
    assert layout(allocator) == [[-30 * MIB], [-12 * MIB], [-20 * MIB], [-12 * MIB]]
    allocator.allocate(11 * MIB)
    assert layout(allocator) == [[-30 * MIB], [12 * MIB], [-20 * MIB], [-12 * MIB]]
    allocator.allocate(14 * MIB)
    assert layout(allocator) == [[-30 * MIB], [12 * MIB], [14 * MIB, -6 * MIB], [-12 * MIB]]


def test_among_equals_the_segment_that_came_first_is_taken_wherever_it_lies():
    """As torch 2.13.0's CUDA build does where the driver reuses low addresses: the older one, at the higher address."""
    allocator = Allocator(256 * MIB)
    low, older = allocator.allocate(40 * MIB), allocator.allocate(12 * MIB)
    allocator.free(low)
    allocator.empty_cache()
    newer = allocator.allocate(12 * MIB)
    assert newer.address < older.address
    old_address = older.address
    allocator.free(newer)
    allocator.free(older)
    assert allocator.allocate(12 * MIB).address == old_address


def test_a_freed_block_merges_with_both_neighbours():
    allocator = Allocator(64 * MIB)
    one, two, three, _four = (allocator.allocate(4 * MIB) for _ in range(4))
    allocator.free(one)
    allocator.free(three)
    assert layout(allocator) == [[-4 * MIB, 4 * MIB, -4 * MIB, 4 * MIB, -4 * MIB]]
    stats = allocator.all.stats()
    assert stats["inactive_split"].figures() == {
        # Rest; rest again, shrunk by three blocks; one; three.
        "current": 3,
        "peak": 3,
        "allocated": 3,
        "freed": 0,
    }
    allocator.free(two)
    assert layout(allocator) == [[-12 * MIB, 4 * MIB, -4 * MIB]]
    assert stats["inactive_split"].current == 2
    assert stats["inactive_split_bytes"].current == 16 * MIB


def test_emptying_the_cache_releases_whole_segments_only():
    allocator = Allocator(64 * MIB)
    small = allocator.allocate(1)
    large = allocator.allocate(3 * MIB)
    # 17 MiB are left of the 20, so 18 get a segment of their own.
    own = allocator.allocate(18 * MIB)
    allocator.free(own)
    allocator.free(large)
    assert figures(allocator) == (512, 21 * MIB + 512, 40 * MIB, 40 * MIB)
    allocator.empty_cache()
    allocator.reset_peak()
    assert figures(allocator) == (512, 512, 2 * MIB, 2 * MIB)
    allocator.free(small)
    allocator.empty_cache()
    assert (layout(allocator), allocator.reserved_bytes) == ([], 0)


def test_a_failed_segment_releases_the_cache_and_tries_again():
    allocator = Allocator(40 * MIB)
    allocator.free(allocator.allocate(20 * MIB))
    allocator.allocate(1)
    allocator.allocate(30 * MIB)
    assert (allocator.retries, allocator.failures, allocator.reserved_bytes) == (1, 0, 32 * MIB)


def test_what_exceeds_the_limit_is_refused_and_holds_nothing():
    allocator = Allocator(20 * MIB)
    allocator.allocate(3 * MIB)
    before = figures(allocator)
    with pytest.raises(BlockTooLargeError) as refused:
        allocator.allocate(18 * MIB)
    assert (refused.value.requested_bytes, refused.value.segment_bytes) == (18 * MIB, 18 * MIB)
    assert figures(allocator) == before
    assert (allocator.retries, allocator.failures) == (1, 1)
    allocator.allocate(17 * MIB - 512)


def test_a_small_request_needs_the_room_of_its_segment():
    allocator = Allocator(21 * MIB)
    allocator.allocate(3 * MIB)
    with pytest.raises(BlockTooLargeError) as refused:
        allocator.allocate(1)
    assert refused.value.segment_bytes == 2 * MIB


def test_a_memory_fraction_bounds_what_is_reserved():
    allocator = Allocator(64 * MIB)
    allocator.segments.allowed_bytes = 30 * MIB
    allocator.allocate(20 * MIB)
    with pytest.raises(BlockTooLargeError):
        allocator.allocate(12 * MIB)
    allocator.allocate(10 * MIB)


def test_a_kernel_s_memory_stays_reserved():
    allocator = Allocator(64 * MIB)
    allocator.touch(30 * MIB)
    assert figures(allocator) == (0, 30 * MIB, 30 * MIB, 30 * MIB)


# -- streams


def test_a_stream_reuses_its_own_blocks_only():
    allocator = Allocator(64 * MIB)
    allocator.free(allocator.allocate(12 * MIB, stream=1))
    allocator.allocate(12 * MIB, stream=2)
    assert layout(allocator) == [[-12 * MIB], [12 * MIB]]
    allocator.allocate(12 * MIB, stream=1)
    assert layout(allocator) == [[12 * MIB], [12 * MIB]]


def test_a_block_that_another_stream_uses_is_not_reused_before_that_is_done():
    clock = Clock()
    allocator = Allocator(64 * MIB, clock=clock)
    other = clock.add_stream()
    block = allocator.allocate(12 * MIB)
    allocator.record_stream(block, other)
    clock.current = other
    clock.launch(0.0, 2.0)
    allocator.free(block)
    # It counts as free for the user, and as in use for the allocator.
    assert (allocator.allocated_bytes, allocator.all.active_bytes.current) == (0, 12 * MIB)
    allocator.allocate(12 * MIB)
    assert layout(allocator) == [[12 * MIB], [12 * MIB]]
    clock.host = 2.0
    allocator.allocate(12 * MIB)
    assert allocator.reserved_bytes == 24 * MIB


def test_what_a_stream_does_after_the_free_does_not_hold_the_block():
    clock = Clock()
    allocator = Allocator(64 * MIB, clock=clock)
    other = clock.add_stream()
    block = allocator.allocate(12 * MIB)
    allocator.record_stream(block, other)
    allocator.free(block)
    clock.current = other
    clock.launch(0.0, 5.0)
    allocator.allocate(12 * MIB)
    assert allocator.reserved_bytes == 12 * MIB


def test_a_use_on_its_own_stream_holds_nothing():
    clock = Clock()
    allocator = Allocator(64 * MIB, clock=clock)
    block = allocator.allocate(12 * MIB)
    allocator.record_stream(block, 0)
    clock.launch(0.0, 5.0)
    allocator.free(block)
    assert layout(allocator) == [[-12 * MIB]]


def test_emptying_the_cache_waits_for_the_streams():
    clock = Clock()
    allocator = Allocator(64 * MIB, clock=clock)
    other = clock.add_stream()
    block = allocator.allocate(12 * MIB)
    allocator.record_stream(block, other)
    clock.current = other
    clock.launch(0.0, 2.0)
    allocator.free(block)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, clock.host) == (0, 2.0)


# -- settings


def test_blocks_above_the_split_size_stay_whole_and_serve_large_requests_only():
    allocator = Allocator(GIB, Settings(max_split_bytes=32 * MIB))
    allocator.free(allocator.allocate(40 * MIB))
    # Below the limit: not from the oversize block. At the limit: whole, if within 20 MiB of the request.
    allocator.allocate(12 * MIB)
    assert layout(allocator) == [[-40 * MIB], [12 * MIB]]
    block = allocator.allocate(33 * MIB)
    assert layout(allocator) == [[40 * MIB], [12 * MIB]]
    assert allocator.all.active_bytes.current == 52 * MIB
    allocator.free(block)
    allocator.free(allocator.allocate(60 * MIB))
    allocator.allocate(40 * MIB)
    # 60 MiB is 20 MiB more than 40 MiB: too much.
    assert layout(allocator) == [[40 * MIB], [12 * MIB], [-60 * MIB]]
    with_60 = allocator.allocate(41 * MIB)
    assert with_60.size == 60 * MIB


def test_oversize_blocks_are_released_first_and_only_as_many_as_needed():
    allocator = Allocator(140 * MIB, Settings(max_split_bytes=32 * MIB))
    for block in [allocator.allocate(size * MIB) for size in (12, 40, 60)]:
        allocator.free(block)
    # 112 MiB are cached and 28 free. 70 MiB need the 60 and, since those alone are less than 70, the 40.
    allocator.allocate(70 * MIB)
    assert layout(allocator) == [[-12 * MIB], [70 * MIB]]
    assert allocator.retries == 0


def test_garbage_collection_releases_what_is_older_than_the_average():
    allocator = Allocator(GIB, Settings(garbage_collection_threshold=0.5))
    allocator.segments.allowed_bytes = 100 * MIB
    old, young = allocator.allocate(20 * MIB), allocator.allocate(30 * MIB)
    allocator.free(old)
    allocator.free(allocator.allocate(12 * MIB))
    allocator.free(young)
    # 50 MiB are reserved (12 came out of the 20), which is not above 50. The next segment makes it 90.
    allocator.allocate(40 * MIB)
    assert layout(allocator) == [[-20 * MIB], [-30 * MIB], [40 * MIB]]
    # Searches so far: 4, and 5 with this one. Free since search 3 (the merged 20) and 3 (the 30): both of average age.
    allocator.allocate(41 * MIB)
    assert layout(allocator) == [[42 * MIB], [40 * MIB]]


@pytest.mark.parametrize(
    ("nbytes", "size"),
    # Between 1 MiB and 2 MiB in four: steps of 256 KiB. Up to 4 x 512 bytes whole blocks count, and nothing is divided.
    [
        (1200, 1536),
        (2048, 2048),
        (2049, 2560),
        (MIB, MIB),
        (MIB + 1, MIB + 256 * KIB),
        (3 * MIB, 3 * MIB),
        (3 * MIB + 1, 3 * MIB + 512 * KIB),
    ],
)
def test_requests_are_rounded_up_to_a_division_of_a_power_of_two(nbytes, size):
    assert Settings(divisions=(4,) * 16).round(nbytes) == size


def test_an_expandable_segment_grows_by_pages_and_leaves_no_slivers():
    allocator = Allocator(GIB, Settings(expandable_segments=True))
    first = allocator.allocate(30 * MIB)
    # Two pages of 20 MiB.
    assert allocator.reserved_bytes == 40 * MIB
    second = allocator.allocate(45 * MIB)
    # 10 MiB are left, 35 MiB missing: two pages more.
    assert allocator.reserved_bytes == 80 * MIB
    assert layout(allocator)[0][:3] == [30 * MIB, 45 * MIB, -5 * MIB]
    allocator.free(first)
    allocator.free(second)
    allocator.allocate(78 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def test_emptying_the_cache_unmaps_the_whole_pages_of_a_free_block():
    allocator = Allocator(GIB, Settings(expandable_segments=True))
    blocks = [allocator.allocate(30 * MIB) for _ in range(3)]
    # 90 MiB in five pages of 20 MiB.
    assert allocator.reserved_bytes == 100 * MIB
    allocator.free(blocks[1])
    allocator.empty_cache()
    # Free: 30 to 60 MiB, in which lies one whole page, and 90 to 100, in which lies none.
    assert allocator.reserved_bytes == 80 * MIB
    assert layout(allocator)[0][:5] == [30 * MIB, -10 * MIB, -20 * MIB, 30 * MIB, -10 * MIB]
    # The gap is filled before the end grows.
    allocator.allocate(25 * MIB)
    assert layout(allocator)[0][:3] == [30 * MIB, 25 * MIB, -5 * MIB]
    assert allocator.reserved_bytes == 100 * MIB
    for block in allocator_blocks(allocator):
        allocator.free(block)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, layout(allocator)) == (0, [])


def allocator_blocks(allocator):
    return [block for chain in allocator.segments for block in chain if block.allocated]


def test_an_expandable_segment_that_cannot_grow_fails_in_the_end():
    allocator = Allocator(50 * MIB, Settings(expandable_segments=True))
    allocator.allocate(30 * MIB)
    with pytest.raises(BlockTooLargeError):
        allocator.allocate(20 * MIB)
    allocator.allocate(10 * MIB)
    assert allocator.reserved_bytes == 40 * MIB
