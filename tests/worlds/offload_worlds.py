"""Random workloads and schemes for property tests of the replay and the planner."""

from __future__ import annotations

from builders import GPU, Recorder, component
from hypothesis import strategies as st

from profiler.placements.scheme import scheme_for
from profiler.planning.replaying.workload import workload_of

NAMES = ("a", "b", "c", "d")
SIZES = st.lists(st.integers(1, 2000).map(lambda n: 2 * n), min_size=1, max_size=3)
WORK = st.tuples(st.integers(0, 5000), st.integers(-200, 1000))


@st.composite
def workloads(draw, most=4):
    """Components that are all on the GPU, called in any order, nested, repeated, with casts."""
    count = draw(st.integers(1, most))
    parts = [component(name, tuple(draw(SIZES)), device=GPU) for name in NAMES[:count]]
    log = Recorder(*parts)
    for _ in range(draw(st.integers(1, 2))):
        log.begin()
        _acts(draw, log, parts, depth=0)
        log.end()
    return workload_of(log.profile(mode="resident"))


def _acts(draw, log, parts, *, depth):
    for part in draw(st.lists(st.sampled_from(parts), max_size=5)):
        times = draw(st.sampled_from([1, 1, 3]))
        for _ in range(times):
            act = draw(st.sampled_from(["run", "run", "encode", "nest", "cast"]))
            if act == "cast":
                _cast(draw, log, part)
            elif act == "nest" and depth == 0:
                log.enter(part.name)
                _acts(draw, log, parts, depth=1)
                log.exit(part.name)
            else:
                peak, keep = draw(WORK)
                keep = max(keep, -log.floating)
                log.run(
                    part.name, max(peak, keep), keep, "encode" if act == "encode" else "forward"
                )


def _cast(draw, log, part):
    dtype, itemsize = draw(st.sampled_from([("float32", 4), ("float16", 2), ("bfloat16", 2)]))
    sizes = [tensor.numel * itemsize for tensor in part.tensors]
    log.cast(part.name, dtype, count=sum(sizes), resident=sum(-(-s // 512) * 512 for s in sizes))


@st.composite
def schemes(draw, names):
    """Any sequence of some components, the others excluded or outside."""
    order = draw(st.permutations(list(names)))
    length = draw(st.integers(0, len(names)))
    excluded = [name for name in order[length:] if draw(st.booleans())]
    return scheme_for(names, sequence=order[:length], excluded=excluded, sticky=draw(st.booleans()))
