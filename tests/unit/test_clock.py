"""The clock against times worked out by hand."""

from profiler.virtual.clock import Clock


def test_streams_overlap_and_a_join_waits_for_the_later_one():
    clock = Clock()
    side = clock.add_stream()
    clock.launch(1.0, 10.0)  # host 1, stream 0 busy until 11
    clock.current = side
    clock.launch(1.0, 4.0)  # host 2, side busy until 6
    assert (clock.host, clock.at(0), clock.at(side)) == (2.0, 11.0, 6.0)
    clock.join(side)
    assert clock.host == 6.0
    clock.join_all()
    assert clock.host == 11.0


def test_a_stream_that_waits_begins_no_sooner_than_it_is_told():
    clock = Clock()
    side = clock.add_stream()
    clock.launch(0.0, 5.0)
    clock.wait(side, clock.at(0))
    clock.current = side
    clock.launch(0.0, 1.0)
    assert clock.at(side) == 6.0
