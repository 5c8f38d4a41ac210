"""The clock against times worked out by hand, and against a simulation that counts ticks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.allocator.clock import D2H, H2D, Clock


def on(clock, stream):
    """Let new work go to `stream`."""
    clock.current = stream
    return clock


def test_streams_overlap_and_a_join_waits_for_the_later_one():
    clock = Clock()
    side = clock.add_stream()
    clock.launch(1.0, 10.0)  # host 1, stream 0 busy until 11
    on(clock, side).launch(1.0, 4.0)  # host 2, side busy until 6
    assert (clock.host, clock.at(0), clock.at(side)) == (2.0, 11.0, 6.0)
    clock.join(side)
    assert clock.host == 6.0
    clock.join_all()
    assert clock.host == 11.0


def test_a_stream_that_waits_begins_no_sooner_than_it_is_told():
    clock = Clock()
    side = clock.add_stream()
    clock.launch(0.0, 5.0)
    clock.wait(side, clock.mark(0))
    on(clock, side).launch(0.0, 1.0)
    assert clock.at(side) == 6.0


def test_a_copy_on_its_own_stream_runs_beside_the_kernels():
    clock = Clock()
    side = clock.add_stream()
    clock.launch(0.0, 10.0)
    on(clock, side).copy(H2D, 0.0, 4.0)
    assert (clock.at(0), clock.at(side), clock.host, clock.link_seconds) == (10, 4, 0, [4, 0])
    assert clock.exposed_seconds() == 0.0


def test_each_direction_does_one_copy_at_a_time_and_both_run_together():
    clock = Clock()
    one, two = clock.add_stream(), clock.add_stream()
    on(clock, one).copy(H2D, 0.0, 3.0)
    on(clock, two).copy(H2D, 0.0, 3.0)  # from 3 to 6
    on(clock, 0).copy(D2H, 0.0, 5.0)  # the other engine: from 0 to 5
    assert (clock.at(one), clock.at(two), clock.at(0)) == (3.0, 6.0, 5.0)


def test_a_copy_that_blocks_holds_the_host_and_so_the_next_kernel():
    clock = Clock()
    side = clock.add_stream()
    on(clock, side).copy(H2D, 1.0, 4.0, blocks=True)  # host at 5
    on(clock, 0).launch(1.0, 2.0)  # from 6 to 8; at 4 with a link that takes no time
    assert (clock.host, clock.at(0), clock.exposed_seconds()) == (6.0, 8.0, 4.0)


def test_a_copy_is_exposed_as_far_as_the_kernels_before_it_do_not_hide_it():
    """Prefetching: block 1 is copied while block 0 computes for 3 s, and computes 2 s later than it could."""
    clock = Clock()
    side = clock.add_stream()
    clock.launch(0.0, 3.0)
    on(clock, side).copy(H2D, 0.0, 5.0)
    clock.wait(0, clock.mark(side))
    on(clock, 0).launch(0.0, 3.0)
    assert (clock.at(0), clock.exposed_seconds()) == (8.0, 2.0)


def test_what_the_host_spends_on_its_own_exposes_nothing():
    clock = Clock()
    clock.spend(3.0)
    clock.launch(0.0, 1.0)
    assert (clock.at(0), clock.exposed_seconds()) == (4.0, 0.0)


# -- a second, dumb computation


@dataclass
class Item:
    """Work that was given to a stream: it runs once all in `after` has ended."""

    issued: int
    seconds: int
    after: list[Item]
    end: int | None = None

    def settle(self, now):
        """End it, if it has ended by `now`."""
        ends = [before.end for before in self.after]
        if None not in ends and max([self.issued, *ends]) + self.seconds <= now:
            self.end = max([self.issued, *ends]) + self.seconds


class Walk:
    """A host that walks through its program, and through time, tick by tick."""

    def __init__(self, *, fast_link):
        self.now = 0
        self.items = []
        self.queues = [[], [], []]
        self.engines = [[], []]
        self.fast_link = fast_link

    def tick_until(self, done):
        """Let time pass until `done()`."""
        while True:
            for (
                item
            ) in self.items:  # in the order of issue, so that each comes after those it waits for
                if item.end is None:
                    item.settle(self.now)
            if done():
                return
            self.now += 1

    def issue(self, stream, seconds, after=()):
        item = Item(self.now, seconds, [*self.queues[stream][-1:], *after])
        self.queues[stream].append(item)
        self.items.append(item)
        return item

    def launch(self, stream, other, seconds, blocks):
        self.issue(stream, seconds)

    def copy(self, stream, other, seconds, blocks):
        engine = self.engines[engine_of(other)]
        item = self.issue(stream, 0) if self.fast_link else self.issue(stream, seconds, engine[-1:])
        engine.append(item)
        if blocks:
            self.tick_until(lambda: item.end is not None)

    def wait(self, stream, other, seconds, blocks):
        self.issue(stream, 0, self.queues[other][-1:])

    def join(self, stream, other, seconds, blocks):
        last = self.queues[stream][-1:]
        self.tick_until(lambda: all(item.end is not None for item in last))

    def run(self, program):
        """Return when the host, and when each stream, is done."""
        for kind, stream, other, overhead, seconds, blocks in program:
            ready = self.now + (overhead if kind in {"launch", "copy"} else 0)
            self.tick_until(lambda ready=ready: self.now >= ready)
            getattr(self, kind)(stream, other, seconds, blocks)
        host = self.now
        self.tick_until(lambda: all(item.end is not None for item in self.items))
        return host, [max([host, *(item.end for item in queue)]) for queue in self.queues]


def engine_of(other):
    return H2D if other % 2 == 0 else D2H


def seconds_of(program, stretch=1.0):
    """Return the clock after launches and joins on one stream, with the host's own work stretched."""
    clock = Clock()
    for overhead, seconds, waits in program:
        clock.launch(overhead * stretch, seconds)
        if waits:
            clock.join(0)
    return clock


@pytest.mark.parametrize("seed", range(30))
def test_the_host_decides_for_as_long_as_its_own_work_would_stretch_the_whole(seed):
    """The whole is a sum along one path: how it grows with the host's work says how much of it is the host's."""
    rng = random.Random(seed)
    program = [
        (rng.uniform(0.1, 2), rng.choice([0.1, 1, 3]) * rng.random(), rng.random() < 0.2)
        for _ in range(20)
    ]
    little = 1e-7
    plain = seconds_of(program)
    longer = seconds_of(program, 1 + little)
    growth = (longer.at(0) - plain.at(0)) / little
    assert plain.host_bound_seconds == pytest.approx(growth, rel=1e-4)
    at_once = Clock()
    for overhead, seconds, waits in program:
        at_once.launch_all(overhead, [seconds])
        if waits:
            at_once.join(0)
    assert at_once.host_bound_seconds == plain.host_bound_seconds


operations = st.tuples(
    st.sampled_from(["launch", "launch", "copy", "copy", "wait", "join"]),
    st.integers(0, 2),  # stream
    st.integers(0, 2),  # the other stream of a wait; even: a copy to the GPU
    st.integers(0, 2),  # overhead
    st.integers(0, 5),  # seconds
    st.booleans(),  # whether the host waits for a copy
)


@settings(max_examples=200, deadline=None)
@given(st.lists(operations, max_size=10))
def test_the_clock_agrees_with_a_walk_through_time(program):
    clock = Clock()
    clock.add_stream()
    clock.add_stream()
    for kind, stream, other, overhead, seconds, blocks in program:
        on(clock, stream)
        if kind == "launch":
            clock.launch(overhead, seconds)
        elif kind == "copy":
            clock.copy(engine_of(other), overhead, seconds, blocks=blocks)
        elif kind == "wait":
            clock.wait(stream, clock.mark(other))
        else:
            clock.join(stream)
    host, streams = Walk(fast_link=False).run(program)
    _, ideal = Walk(fast_link=True).run(program)
    assert (clock.host, [clock.at(stream) for stream in range(3)]) == (host, streams)
    exposed = [done - fast for done, fast in zip(streams, ideal, strict=True)]
    assert [clock.exposed_seconds(stream) for stream in range(3)] == exposed
