"""Tiny real pipelines as workloads whose parts are known, and random schemes over the whole vocabulary."""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import strategies as st
from replay_worlds import FAMILIES

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.placements.evictions import COPY, DROP, PINNED
from profiler.placements.grouped import Grouped
from profiler.placements.placement import DISK, LEVERS
from profiler.placements.scheme import Scheme
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.planning.costs.link import Link
from profiler.planning.costs.table import tabulate
from profiler.planning.replaying.simulate import NOT_REPLAYED
from profiler.planning.replaying.workload import workload_of
from profiler.planning.vocabulary import placements
from profiler.tracing import trace
from profiler.virtual import VirtualGPU

LINK = Link(1e-9, 2e-9, 0.5e-9, 1.0)

SPLITS = {
    "sequential": (Mode(name="sequential"), Sequential()),
    "leaf": (Mode(name="group-leaf"), Grouped()),
    "leaf, stream": (Mode(name="group-leaf", stream=True), Grouped(stream=True)),
    "leaf, recorded stream": (
        Mode(name="group-leaf", stream=True, record_stream=True),
        Grouped(stream=True, record_stream=True),
    ),
    "blocks": (Mode(name="group-block"), Grouped(1)),
    "pairs of blocks": (Mode(name="group-block", blocks=2), Grouped(2)),
    "blocks, stream": (Mode(name="group-block", stream=True), Grouped(1, stream=True)),
}


def in_calls(events):
    """Return what the replay promises of the events in calls; before them, the caller's own tensors are unknown."""
    return [event._replace(ordinal=0, **NOT_REPLAYED) for event in events if event.call >= 0]


def traced(family, mode):
    """Return the profile of two calls of a tiny pipeline in a mode, set-up included."""
    with VirtualGPU("rtx-4090"):
        pipe, call = FAMILIES[family]()
        for name in ("unet", "transformer", "controlnet", "vae"):
            if hasattr(pipe, name):
                getattr(pipe, name).to(torch.float16)
        with trace(pipe) as t:
            enable_mode(pipe, mode)
            for _ in range(2):
                pipe(num_inference_steps=3, **call)
    return t.profile


@cache
def under_model_offload(family):
    """Return the profile of the calls under model offload, which pins nothing but what `.item()` reads through."""
    return traced(family, Mode(name="model"))


@cache
def workload(family):
    """Return the workload as model offload shows it."""
    return workload_of(under_model_offload(family))


@cache
def cost_table(family):
    """Return the cost_table of a family's workload."""
    return tabulate(workload(family), LINK)


@cache
def insides(family):
    """Return how each component can be split, and streamed."""
    ways = {}
    for part in workload(family).components:
        table = cost_table(family)
        split = tuple(placements(part, table, (*LEVERS, DISK), leaving_rest=False))
        ways[part.name] = split, tuple(placements(part, table, LEVERS, leaving_rest=True))
    return ways


@st.composite
def any_schemes(draw, family, *, disk=True):
    """Any placements that may go together."""
    sequence, excluded, inside, swaps = [], set(), {}, {}
    names = workload(family).names
    for name in draw(st.permutations(names)):
        split, streamed = insides(family)[name]
        split = [way for way in split if disk or not getattr(way, "disk", False)]
        kinds = ["link", "outside", "resident", *(["split"] if split else [])]
        kind = draw(st.sampled_from(kinds))
        if kind == "split":
            inside[name] = draw(st.sampled_from(split))
            continue
        if streamed and draw(st.booleans()):
            inside[name] = draw(st.sampled_from(streamed))
        if kind == "link":
            sequence.append(name)
        if kind == "resident":
            excluded.add(name)
        else:
            swaps[name] = draw(st.sampled_from([COPY, DROP, PINNED]))
    swaps = {name: how for name, how in swaps.items() if how != COPY}
    sticky = any(kind is None or isinstance(kind, Streamed) for kind in map(inside.get, names))
    return Scheme(tuple(sequence), frozenset(excluded), sticky, inside, swaps)
