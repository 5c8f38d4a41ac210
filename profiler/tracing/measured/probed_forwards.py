"""Turn sampled forwards into `SubmoduleSpan` records once their CUDA events have completed.

Times are those of the GPU, by its events, in the probed forward, which probing slows down; if there are others of its
kind, they are scaled to the times of those. A component that runs only once or twice has no others, and its first
forward includes loading kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from profiler.allocator.history_replay import DoesNotAddUpError
from profiler.errors import InputError
from profiler.record.events import SubmoduleSpan
from profiler.tracing.measured.probes import ProbedForward
from profiler.units import NANOSECONDS

Seconds = Callable[[int], float]
"""The time at which a mark was passed."""


class ProbedStep(NamedTuple):
    """An event inside a forward, and what submodules did before it."""

    ended_by: tuple[str, str]
    inside: int


class Interval(NamedTuple):
    """The visits of submodules between two events of a forward, not read yet.

    The number of its moment stands in for the peak of each visit, the mark for the stream's time.
    """

    inside: SubmoduleSpan
    probes: ProbedForward
    base_bytes: int
    start: int  # the last moment before it; -1 for none
    began: int  # the mark at which it began


@dataclass
class ForwardKind:
    """The forwards of one kind. Steps are those of the first probed forward, and of the last one."""

    probed: int = 0
    first: tuple[ProbedStep, ...] = ()
    steady: tuple[ProbedStep, ...] = ()
    others: list[tuple[int, int, float]] = field(
        default_factory=list
    )  # two marks and the host seconds of each forward that was not probed


def resolved(
    intervals: Iterable[Interval], kinds: Iterable[ForwardKind], at: Seconds
) -> list[SubmoduleSpan | None]:
    """Return the intervals with their readings; None for those whose readings are not usable.

    Args:
        intervals: those of all probed forwards, as numbered by the steps of their kinds.
        kinds: the kinds of forwards.
        at: returns the time of a mark, in seconds of the GPU's stream.
    """
    found = [_read_off(interval, at) for interval in intervals]
    done: set[int] = set()
    for kind in kinds:
        _scale(kind, found, done, at)
    return found


def _read_off(interval: Interval, at: Seconds) -> SubmoduleSpan | None:
    """Return an interval with its moments and marks read; None if the moments cannot be determined."""
    try:
        moments = interval.probes.moments()
    except (DoesNotAddUpError, InputError):
        return None
    inside, base_bytes = interval.inside, interval.base_bytes
    before = interval.start

    def peak_bytes(moment: int) -> int:
        nonlocal before
        peak = max(one.peak_bytes for one in moments[before + 1 : moment + 1])
        before = moment
        return peak - base_bytes

    def since(mark: int) -> int:
        return max(round((at(mark) - at(interval.began)) * NANOSECONDS), 0)

    visits = tuple(
        visit._replace(
            peak_bytes=peak_bytes(visit.peak_bytes),
            allocated_bytes=moments[visit.peak_bytes].allocated_bytes - base_bytes,
            stream_nanoseconds=since(visit.stream_nanoseconds),
        )
        for visit in inside.visits
    )
    return inside._replace(
        visits=visits,
        peak_bytes=peak_bytes(inside.peak_bytes),
        stream_nanoseconds=since(inside.stream_nanoseconds),
    )


def _scale(
    kind: ForwardKind, found: list[SubmoduleSpan | None], done: set[int], at: Seconds
) -> None:
    """Scale the probed forwards to the times of the others, and give the first one the times of the second."""
    probed = {step.inside: inside for step in kind.steady if (inside := _of(step, found))}
    if kind.others and probed:
        stream = median(at(end) - at(begin) for begin, end, _ in kind.others)
        host = median(host_seconds for _, _, host_seconds in kind.others)
        factors = (
            _factor(host, sum(inside.host_nanoseconds for inside in probed.values())),
            _factor(stream, sum(inside.stream_nanoseconds for inside in probed.values())),
        )
        for index, inside in probed.items():
            if index not in done:
                found[index] = _scaled(inside, *factors)
    done |= probed.keys()
    for first, steady in zip(kind.first, kind.steady, strict=False):
        cold, warm = _of(first, found), _of(steady, found)
        if cold is not None and warm is not None and first.inside not in done:
            found[first.inside] = _timed_as(cold, warm)


def _of(step: ProbedStep, found: list[SubmoduleSpan | None]) -> SubmoduleSpan | None:
    return found[step.inside] if step.inside >= 0 else None


def _factor(seconds: float, nanoseconds: int) -> float:
    """Return the factor for times: at most 1, since probing can only slow a forward down."""
    return min(seconds * NANOSECONDS / nanoseconds, 1.0) if nanoseconds else 1.0


def _scaled(inside: SubmoduleSpan, host: float, stream: float) -> SubmoduleSpan:
    times = [(round(a * host), round(b * stream)) for a, b in _times(inside)]
    return _with_times(inside, times)


def _timed_as(inside: SubmoduleSpan, other: SubmoduleSpan) -> SubmoduleSpan:
    """Return `inside` with the times of another interval, if the same submodules were visited in both."""
    alike = [visit[:3] for visit in inside.visits] == [visit[:3] for visit in other.visits]
    return _with_times(inside, _times(other)) if alike else inside


def _times(inside: SubmoduleSpan) -> list[tuple[int, int]]:
    visits = [(visit.host_nanoseconds, visit.stream_nanoseconds) for visit in inside.visits]
    return [*visits, (inside.host_nanoseconds, inside.stream_nanoseconds)]


def _with_times(inside: SubmoduleSpan, times: list[tuple[int, int]]) -> SubmoduleSpan:
    *of_visits, (host, stream) = times
    visits = [
        visit._replace(host_nanoseconds=at_host, stream_nanoseconds=at_stream)
        for visit, (at_host, at_stream) in zip(inside.visits, of_visits, strict=True)
    ]
    return SubmoduleSpan(tuple(visits), inside.peak_bytes, host, stream)
