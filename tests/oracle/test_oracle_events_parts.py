"""How the events of both sides are compared; running them is `make oracle`."""

from oracle_cases import EVENT_CASES
from oracle_events import LEVELS_APART, differences, verdict


def event(ordinal, *, nbytes=8, visits=None):
    """Return what is compared of an event."""
    what = {"kind": "copy", "component": "", "group": "", "bytes": nbytes}
    return {"ordinal": ordinal, **what, "visits": visits}


def side(*events, error=""):
    return {"events": list(events), "error": error}


def test_events_are_compared_one_by_one_and_visits_where_they_were_looked_at():
    visit = [0, 3, 1, 512, 512]
    predicted = side(event(0), event(1, visits=[visit]), event(2, visits=[visit]))
    assert list(differences(predicted, predicted)) == []
    assert list(differences(side(event(0), event(1), event(2, visits=[visit])), predicted)) == []
    other = side(event(0), event(1, nbytes=4), event(2, visits=[[0, 3, 1, 1024, 512]]))
    assert list(differences(other, predicted)) == [
        "event 1, copy of: bytes 4, predicted 8",
        (
            "event 2, copy of: visit 0 of 1 (component, part, entering, peak_bytes, allocated_bytes): "
            "[0, 3, 1, 1024, 512], predicted [0, 3, 1, 512, 512]"
        ),
    ]


def test_levels_alone_are_told_apart_from_what_happened():
    one, other = event(0) | {"before_bytes": 512}, event(0) | {"before_bytes": 1024}
    assert verdict(side(one), side(one)) == "equal"
    assert verdict(side(one), side(other)) == LEVELS_APART
    assert verdict(side(one), side(event(0, nbytes=4) | {"before_bytes": 512})) == "DIFFERENT"
    assert verdict(side(one), side(other, error="OutOfMemoryError: one")) == "DIFFERENT"
    assert verdict(side(), side()) == "DIFFERENT"


def test_a_side_that_tells_less_or_ends_otherwise_differs():
    assert list(differences(side(event(0)), side(event(0), event(1)))) == ["1 events, predicted 2"]
    assert list(differences(side(), side())) == ["0 events, predicted 0"]
    failed = side(event(0), error="OutOfMemoryError: so many bytes")
    assert list(differences(failed, side(event(0), error="OutOfMemoryError: others"))) == []
    assert list(differences(failed, side(event(0)))) == [
        "ended with 'OutOfMemoryError', predicted ''"
    ]


def test_events_are_compared_in_every_offload_mode():
    modes = {case.mode for case in EVENT_CASES}
    assert modes >= {"resident", "model", "sequential", "group-block", "group-block+stream"}
    assert modes >= {"group-leaf", "group-leaf+stream"}
