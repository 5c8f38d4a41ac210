"""The clock against times worked out by hand, and against a simulation that counts ticks."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.virtual.clock import D2H, H2D, Clock


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

    seconds: int
    after: list[Item] = field(default_factory=list)
    end: int | None = None


def simulated(operations, streams, *, fast_link=False):
    """Return when each stream and the host are done, by walking through time tick by tick."""
    queues = [[] for _ in range(streams)]
    engines = ([], [])
    issued: list[Item] = []
    now, program, pending, blocked_on = 0, list(operations), None, []

    def settle():
        changed = True
        while changed:
            changed = False
            for item in issued:
                ends = [before.end for before in item.after]
                if item.end is None and None not in ends:
                    began = max([item.issued_at, *ends])
                    if began + item.seconds <= now:
                        item.end, changed = began + item.seconds, True

    def issue(stream, seconds, after):
        item = Item(seconds, [*queues[stream][-1:], *after])
        item.issued_at = now
        queues[stream].append(item)
        issued.append(item)
        return item

    def execute(operation):
        """Do what the host does at once; return what it then waits for."""
        kind, stream, other, _, seconds, blocks = operation
        if kind == "launch":
            issue(stream, seconds, [])
        elif kind == "copy" and fast_link:
            item = issue(stream, 0, [])
            return [item] if blocks else []
        elif kind == "copy":
            item = issue(stream, seconds, engines[engine_of(other)][-1:])
            engines[engine_of(other)].append(item)
            return [item] if blocks else []
        elif kind == "wait":
            issue(stream, 0, queues[other][-1:])
        elif kind == "join":
            return queues[stream][-1:]
        return []

    while True:
        settle()
        if any(item.end is None for item in blocked_on):
            now += 1
            continue
        blocked_on = []
        if pending is None and program:
            overhead = program[0][3] if program[0][0] in ("launch", "copy") else 0
            pending = now + overhead
        if pending is None:
            break
        if now < pending:
            now += 1
            continue
        pending = None
        blocked_on = execute(program.pop(0))
    host = now
    while any(item.end is None for item in issued):
        now += 1
        settle()
    return host, [max([host, *(item.end for item in queue)]) for queue in queues]


def engine_of(other):
    return H2D if other % 2 == 0 else D2H


operations = st.tuples(
    st.sampled_from(["launch", "launch", "copy", "copy", "wait", "join"]),
    st.integers(0, 2),  # stream
    st.integers(0, 2),  # the other stream of a wait; even: a copy to the card
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
    host, streams = simulated(program, 3)
    _, ideal = simulated(program, 3, fast_link=True)
    assert (clock.host, [clock.at(stream) for stream in range(3)]) == (host, streams)
    exposed = [done - fast for done, fast in zip(streams, ideal, strict=True)]
    assert [clock.exposed_seconds(stream) for stream in range(3)] == exposed
