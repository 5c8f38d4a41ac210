"""What tracing costs: how much longer a call takes under the tracer, and the memory that its events take.

Only the call is timed. Attaching and taking off the tracer happen once a trace, however many calls it covers, and are
told beside it.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from profiler.tracing import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PER_EVENTS = 1000
LEAST_PAIRS = 3
"""Traced calls that give quartiles of the ratio, and of the noise beside it."""
_MORE_CALLS = 4


def slowdown(
    pipe: Any,
    call: Callable[[], Any],
    *,
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Return the median ratio of seconds with the tracer to seconds without: each call to the two around it.

    Plain and traced calls come in turn, so a machine that becomes slower favours neither. The same ratio of plain calls
    to the plain ones around them stands beside it: as far as that is from 1, the machine's noise hides the tracer. One
    call of each kind goes before.

    Args:
        pipe: what is traced.
        call: calls it once.
        pairs: how many traced calls, at least `LEAST_PAIRS`.
        clock: in seconds; `time.process_time` leaves out what other processes of a busy machine take.
    """
    _traced(pipe, call, clock)
    _plain(call, clock)
    plain = [_plain(call, clock)]
    found = []
    for _ in range(pairs):
        found.append(_traced(pipe, call, clock))
        plain.append(_plain(call, clock))
    traced, attaching, events = zip(*found, strict=True)
    between = [(before + after) / 2 for before, after in pairwise(plain)]
    around = [(before + after) / 2 for before, after in zip(plain, plain[2:], strict=False)]
    return {
        **_median("ratio", traced, between),
        **_median("noise", plain[1:-1], around),
        "pairs": pairs,
        "plain_seconds": statistics.median(plain),
        "traced_seconds": statistics.median(traced),
        "attaching_seconds": statistics.median(attaching),
        "events": events[-1],
    }


def _median(name: str, seconds: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(seconds, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {name: middle, f"{name}_quartiles": [low, high]}


def _plain(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    torch.cuda.synchronize()
    began = clock()
    call()
    torch.cuda.synchronize()
    return clock() - began


def _traced(
    pipe: Any, call: Callable[[], Any], clock: Callable[[], float]
) -> tuple[float, float, int]:
    """Return the seconds of a call, those of the tracer around it, and its events."""
    began = clock()
    with trace(pipe) as tracing:
        seconds = _plain(call, clock)
    around = clock() - began - seconds
    return seconds, around, len(tracing.profile.events)


def host_memory(pipe: Any, call: Callable[[], Any]) -> dict[str, float]:
    """Return the host memory that a trace holds: for every `PER_EVENTS` events, and once.

    Both come from the difference between a trace of one call and one of several, as `tracemalloc` counts what Python
    allocated meanwhile and did not give back.
    """
    call()
    few_bytes, few = _held(pipe, call, 1)
    many_bytes, many = _held(pipe, call, 1 + _MORE_CALLS)
    per_event = (many_bytes - few_bytes) / (many - few)
    return {
        "host_bytes_per_1000_events": per_event * PER_EVENTS,
        "host_bytes_once": few_bytes - per_event * few,
    }


def _held(pipe: Any, call: Callable[[], Any], calls: int) -> tuple[int, int]:
    gc.collect()
    tracemalloc.start()
    try:
        with trace(pipe) as tracing:
            for _ in range(calls):
                call()
        profile = tracing.profile
        del tracing
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(profile.events)
    finally:
        tracemalloc.stop()


def device_memory(pipe: Any, call: Callable[[], Any]) -> dict[str, int]:
    """Return by how many bytes the device's peak, what is reserved, and what stays are higher with the tracer."""
    call()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    peak_bytes, *left = torch.cuda.max_memory_allocated(), *_left_on_device()
    torch.cuda.empty_cache()
    with trace(pipe) as tracing:
        call()
    traced_peak_bytes = tracing.profile.totals.peak_allocated_bytes
    stays, reserved = (now - before for now, before in zip(_left_on_device(), left, strict=True))
    return {
        "device_peak_bytes": traced_peak_bytes - peak_bytes,
        "device_reserved_bytes": reserved,
        "device_stays_bytes": stays,
    }


def _left_on_device() -> tuple[int, int]:
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
