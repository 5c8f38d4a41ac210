"""The replay against accelerate's real hooks, on the virtual GPU, under the tracer, event for event.

A random pipeline is traced under one random plan. What the replay then says of another random plan must be what the
tracer sees when that plan is really set up: every event, with the memory before, during and after it, and the peak
between events.
"""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from offload_worlds import schemes
from tiny_pipelines import build, scripts, set_up

from profiler.planning.replaying.simulate import NOT_REPLAYED, simulate
from profiler.planning.replaying.workload import workload_of
from profiler.tracing import trace
from profiler.virtual import VirtualGPU


def traced(script, scheme, *, calls):
    """Run a tiny pipeline under a scheme on a virtual GPU, set-up included, and return its profile."""
    with VirtualGPU(capacity="2GiB"):
        pipe = build(script)
        with trace(pipe) as t:
            set_up(pipe, scheme)
            for _ in range(calls):
                pipe()
    return t.profile


def comparable(event):
    """Return what of an event the replay promises: all but the cache, the clock and the host's memory."""
    return event._replace(**NOT_REPLAYED)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_replay_of_one_plan_from_a_run_under_another(data):
    script = data.draw(scripts())
    names = tuple(script.components)
    recorded, replayed = data.draw(schemes(names)), data.draw(schemes(names))
    # Without any hook, the end of a call leaves no event behind that would say when it came.
    assume(recorded.hooked(names))
    calls = data.draw(st.integers(1, 3))
    workload = workload_of(traced(script, recorded, calls=calls))
    real = traced(script, replayed, calls=calls)
    assert list(map(comparable, simulate(workload, replayed))) == list(map(comparable, real.events))
