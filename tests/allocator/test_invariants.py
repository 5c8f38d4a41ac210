"""The allocator under random use, against computations that know nothing of how it works."""

from itertools import count, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.allocator.caching import Allocator, BlockTooLargeError
from profiler.allocator.clock import Clock
from profiler.allocator.settings import Settings

MIB = 1 << 20
STREAMS = 2

SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(1, 12 * MIB),
    st.sampled_from([MIB, MIB + 1, 10 * MIB, 33 * MIB, 50 * MIB]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), SIZES, st.integers(0, STREAMS - 1)),
        st.tuples(st.just("free"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("use"), st.integers(0, 99), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("work"), st.integers(1, 3), st.integers(0, STREAMS - 1)),
        st.tuples(st.just("wait"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("empty"), st.just(0), st.just(0)),
    ),
    max_size=60,
)
WAYS = st.sampled_from(
    [
        Settings(),
        Settings(max_split_bytes=32 * MIB),
        Settings(expandable_segments=True),
        Settings(garbage_collection_threshold=0.3, memory_fraction=0.5),
        Settings(divisions=(4,) * 16),
    ]
)


class World:
    """An allocator in use, and what its user knows."""

    def __init__(self, way):
        self.clock = Clock()
        for _ in range(STREAMS - 1):
            self.clock.add_stream()
        self.allocator = Allocator(160 * MIB, way, self.clock)
        if way.memory_fraction < 1:
            self.allocator.segments.allowed_bytes = 100 * MIB
        self.held = []
        self.peak = 0

    def do(self, what, number, stream):
        if what == "allocate":
            self.allocate(number, stream)
        elif what == "free" and self.held:
            self.allocator.free(self.held.pop(number % len(self.held))[0])
        elif what == "use" and self.held:
            self.allocator.record_stream(self.held[number % len(self.held)][0], stream)
        elif what == "work":
            self.clock.current = stream
            self.clock.launch(0.0, number)
        elif what == "wait":
            self.clock.host += number
        elif what == "empty":
            self.allocator.empty_cache()

    def allocate(self, nbytes, stream):
        try:
            block = self.allocator.allocate(nbytes, stream)
        except BlockTooLargeError:
            return
        self.held.append((block, nbytes, self.allocator.settings.round(nbytes)))
        self.peak = max(self.peak, sum(block.size for block, *_ in self.held))


@given(WAYS, STEPS)
@settings(deadline=None)
def test_blocks_tile_their_segments_and_every_sum_holds(way, steps):
    world = World(way)
    allocator = world.allocator
    for step in steps:
        world.do(*step)
        chains = list(allocator.segments)
        blocks = [block for chain in chains for block in chain]

        # No two overlap, in or across segments, and what is held is there.
        spans = sorted((block.address, block.address + block.size) for block in blocks)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
        assert {id(block) for block, *_ in world.held} == {id(b) for b in blocks if b.allocated}
        assert all(block.size >= rounded for block, _, rounded in world.held)

        # Every byte is held, waiting or cached, and together they are what the driver gave.
        mapped = sum(block.size for block in blocks if block.mapped)
        cached = sum(block.size for block in blocks if block.mapped and block.free)
        assert mapped == allocator.reserved_bytes <= 160 * MIB
        assert allocator.all.active_bytes.current + cached == mapped
        assert allocator.allocated_bytes == sum(block.size for block, *_ in world.held)
        assert allocator.peak_bytes == world.peak

        # Merging is complete.
        for chain in chains:
            for one, other in pairwise(chain):
                assert one.address + one.size == other.address
                assert (one.previous, one.next, other.previous) == (one.previous, other, one)
                assert not (one.free and other.free and one.mapped == other.mapped)


@given(WAYS, STEPS)
@settings(deadline=None)
def test_every_figure_equals_a_dumb_count(way, steps):
    world = World(way)
    allocator = world.allocator
    small, large = allocator.pools
    for step in steps:
        world.do(*step)
        chains = list(allocator.segments)
        for tally, pools in (
            (allocator.all, (small, large)),
            (small.tally, (small,)),
            (large.tally, (large,)),
        ):
            blocks = [b for chain in chains for b in chain if b.pool in pools]
            active = [b for b in blocks if not b.free]
            stuck = [b for b in blocks if b.free and not b.whole and b.segment is None]
            expected = {
                "allocation": sum(b.allocated for b in blocks),
                "allocated_bytes": sum(b.size for b in active if b.allocated),
                "active": len(active),
                "active_bytes": sum(b.size for b in active),
                "requested_bytes": sum(b.requested for b in active),
                "inactive_split": len(stuck),
                "inactive_split_bytes": sum(b.size for b in stuck),
                "segment": sum(c[0].pool in pools and c[0].segment is None for c in chains),
                "reserved_bytes": sum(b.size for b in blocks if b.mapped),
            }
            assert {name: stat.current for name, stat in tally.stats().items()} == expected


@given(STEPS)
@settings(deadline=None)
def test_the_best_fit_is_really_the_smallest(steps):
    world = World(Settings())
    allocator = world.allocator
    numbers, born = count(), {}  # when the segment at an address came from the driver
    allocator.segments.note = lambda action, address, *_: born.update({address: next(numbers)})
    for what, number, stream in steps:
        if what == "allocate":
            # What waits is looked at first, so settle that before looking.
            world.clock.host = max(world.clock.host, *(world.clock.at(s) for s in range(STREAMS)))
            world.allocate(1, stream)
            size = -(-number // 512) * 512
            small = size <= MIB
            candidates = [
                (block.size, born[chain[0].address], block.address)
                for chain in allocator.segments
                for block in chain
                if block.free and block.stream == stream and block.pool.small == small
                if block.size >= size
            ]
            before = len(world.held)
            world.allocate(number, stream)
            if candidates and len(world.held) > before:
                assert world.held[-1][0].address == min(candidates)[-1]
        else:
            world.do(what, number, stream)
