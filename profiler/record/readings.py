"""Readings of a profile's events as plain rows: tallies of calls, phases and steps, residency on the GPU, the peak.

The DataFrames, the summary, the findings and the reports all read a profile through these functions, so that a figure
is the same wherever it is shown. An event owns the span since the previous event's end (its gap) and its own duration.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from profiler.allocator.settings import round_block
from profiler.record.cache import once_per_profile
from profiler.record.events import PHASES
from profiler.record.settings import LAYERWISE_CASTING, run_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from profiler.record.components import Component
    from profiler.record.events import Event
    from profiler.record.profile import Profile


_T = TypeVar("_T")


class Tally(NamedTuple):
    """Figures of a stretch of events."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    h2d_bytes: int  # of all copies to the GPU
    d2h_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    start_seconds: float  # when the gap of the first event begins
    seconds: float
    host_pinned_bytes: int = 0  # at its highest
    host_peak_bytes: int = 0  # pageable and pinned host memory together, at their highest
    transfer_seconds: float = (
        0.0  # the link was busy; 0 in a measured run, since torch does not report it
    )
    exposed_transfer_seconds: float = 0.0  # that a link without delay would save; the same


def other_dtypes(profile: Profile) -> dict[str, str]:
    """Return the dtypes of the components that differ from the profile's, by name."""
    cast = {one.component for one in profile.settings if one.what == LAYERWISE_CASTING}
    return {
        part.name: part.dtype
        for part in profile.components
        if part.dtype not in ("", profile.dtype) and not part.quantization and part.name not in cast
    }


def run_phrases(profile: Profile) -> list[str]:
    """Return phrases that describe the run besides its model, call and placement: dtypes, quantisation, settings."""
    return run_words(
        dtype=profile.dtype,
        dtypes=other_dtypes(profile),
        quantization=profile.quantization,
        settings=profile.settings,
    )


class Step(NamedTuple):
    """One denoise step, that is one `scheduler.step`."""

    call: int
    step: int
    tally: Tally
    resident: tuple[str, ...]  # components that had bytes on the GPU during it


class Stay(NamedTuple):
    """A stretch in which the bytes that a component has on the GPU did not change."""

    component: str
    where: str  # the GPU's device if all of it is there, "cpu" if nothing is, else "split"
    device_bytes: int
    start_ordinal: int  # event whose end begins the stay; -1 for the beginning of the trace
    end_ordinal: int  # event whose end ends it; the last event if the trace ended first
    start_seconds: float
    end_seconds: float


def span_peak_bytes(event: Event) -> int:
    """Return the highest allocated bytes in the event's gap and in the event itself."""
    return max(event.lead_peak_bytes, event.peak_bytes)


def direction(event: Event) -> str:
    """Return "h2d" or "d2h" for an event that copied bytes between host and GPU, else "".

    Dropping a copy on the GPU (to `meta`, or because the host kept the original) moves nothing.
    """
    if event.kind not in ("onload", "offload", "copy"):
        return ""
    if _on_gpu(event.to_device):
        return "" if _on_gpu(event.from_device) else "h2d"
    return "d2h" if event.to_device in ("cpu", "disk") and _on_gpu(event.from_device) else ""


def tally(events: Iterable[Event], *, start_seconds: float) -> Tally:
    """Return the figures of consecutive `events`, with the gap of the first one beginning at `start_seconds`."""
    peak = reserved = pinned = host = 0
    transfer_seconds = exposed_seconds = 0.0
    copied = {"": 0, "h2d": 0, "d2h": 0}
    weights = {"": 0, "h2d": 0, "d2h": 0}
    end_seconds = start_seconds
    for event in events:
        peak = max(peak, event.lead_peak_bytes, event.peak_bytes)
        reserved = max(reserved, event.reserved_bytes)
        end_seconds = event.start_seconds + event.seconds
        pinned, host = max(pinned, event.host_pinned_bytes), max(host, event.host_peak_bytes)
        transfer_seconds += event.transfer_seconds
        exposed_seconds += event.exposed_transfer_seconds
        way = direction(event)
        copied[way] += event.bytes
        weights[way] += event.bytes if event.kind != "copy" else 0
    return Tally(
        peak_allocated_bytes=peak,
        peak_reserved_bytes=reserved,
        h2d_bytes=copied["h2d"],
        d2h_bytes=copied["d2h"],
        h2d_weight_bytes=weights["h2d"],
        d2h_weight_bytes=weights["d2h"],
        start_seconds=start_seconds,
        seconds=end_seconds - start_seconds,
        host_pinned_bytes=pinned,
        host_peak_bytes=host,
        transfer_seconds=transfer_seconds,
        exposed_transfer_seconds=exposed_seconds,
    )


def call_seconds(events: Iterable[Event]) -> list[float]:
    """Return the seconds of each call of the pipeline that ended."""
    began: dict[int, float] = {}
    lengths = []
    for event in events:
        if event.kind == "begin":
            began[event.call] = event.start_seconds
        elif event.kind == "end" and event.call in began:
            lengths.append(event.start_seconds - began[event.call])
    return lengths


def called_peak_bytes(profile: Profile) -> int:
    """Return the highest allocated bytes of the calls, without the set-up of the pipeline."""
    called = [event for event in profile.events if event.call >= 0]
    return tally(called, start_seconds=0.0).peak_allocated_bytes


def calls(profile: Profile) -> list[tuple[int, Tally]]:
    """Return the tally of each call of the pipeline, in order; -1 stands for everything outside any call."""
    return list(_tallies(profile.events, lambda event: event.call))


@once_per_profile
def phases(profile: Profile) -> list[tuple[str, Tally]]:
    """Return the tally of each phase that occurs, in the order of `PHASES`, over all calls."""
    parts: dict[str, list[Tally]] = {}
    for phase, part in _tallies(profile.events, lambda event: event.phase):
        parts.setdefault(phase, []).append(part)
    known = [phase for phase in PHASES if phase in parts] + [
        phase for phase in parts if phase not in PHASES
    ]
    return [(phase, _joined(parts[phase])) for phase in known]


@once_per_profile
def steps(profile: Profile) -> list[Step]:
    """Return every denoise step, in order."""
    found = []
    resident = initial_resident_bytes(profile)
    end_seconds = 0.0
    for (call, step), group in groupby(profile.events, key=lambda event: (event.call, event.step)):
        events = list(group)
        seen = {name for name, count in resident.items() if count}
        for event in events:
            if event.component in resident:
                resident[event.component] = event.resident_bytes
                seen |= {event.component} if event.resident_bytes else set()
        if step >= 0:
            names = tuple(name for name in resident if name in seen)
            found.append(Step(call, step, tally(events, start_seconds=end_seconds), names))
        end_seconds = events[-1].start_seconds + events[-1].seconds
    return found


def stays(profile: Profile) -> list[Stay]:
    """Return the stays of every component, component by component."""
    changes = {part.name: [(-1, 0.0, count)] for part, count in _with_initial(profile)}
    for event in profile.events:
        track = changes.get(event.component)
        if track and track[-1][2] != event.resident_bytes:
            track.append((event.ordinal, event.start_seconds + event.seconds, event.resident_bytes))
    end = _end(profile)
    device = gpu_device(profile)
    return [
        Stay(
            part.name, _where(part, count, device), count, ordinal, end_ordinal, start, end_seconds
        )
        for part in profile.components
        for (ordinal, start, count), (end_ordinal, end_seconds, _) in _pairs(
            changes[part.name], end
        )
    ]


def initial_resident_bytes(profile: Profile) -> dict[str, int]:
    """Return the allocated bytes of each component on the GPU when the trace began."""
    return {part.name: count for part, count in _with_initial(profile)}


def gpu_device(profile: Profile) -> str:
    """Return the GPU's device string as the events spell it; "cuda:0" if nothing moved."""
    for event in profile.events:
        for device in (event.to_device, event.from_device):
            if _on_gpu(device):
                return device
    return "cuda:0"


def _tallies(events: Iterable[Event], key: Callable[[Event], _T]) -> Iterator[tuple[_T, Tally]]:
    end_seconds = 0.0
    for value, group in groupby(events, key=key):
        stretch = tally(group, start_seconds=end_seconds)
        end_seconds += stretch.seconds
        yield value, stretch


def _joined(parts: list[Tally]) -> Tally:
    return Tally(
        peak_allocated_bytes=max(part.peak_allocated_bytes for part in parts),
        peak_reserved_bytes=max(part.peak_reserved_bytes for part in parts),
        h2d_bytes=sum(part.h2d_bytes for part in parts),
        d2h_bytes=sum(part.d2h_bytes for part in parts),
        h2d_weight_bytes=sum(part.h2d_weight_bytes for part in parts),
        d2h_weight_bytes=sum(part.d2h_weight_bytes for part in parts),
        start_seconds=parts[0].start_seconds,
        seconds=sum(part.seconds for part in parts),
        host_pinned_bytes=max(part.host_pinned_bytes for part in parts),
        host_peak_bytes=max(part.host_peak_bytes for part in parts),
        transfer_seconds=sum(part.transfer_seconds for part in parts),
        exposed_transfer_seconds=sum(part.exposed_transfer_seconds for part in parts),
    )


def _with_initial(profile: Profile) -> Iterator[tuple[Component, int]]:
    """Yield each component with its initial bytes on the GPU, from its tensors, else from its first event.

    An event states the bytes at its end, so nothing was there before an `onload`, and everything before an `offload`.
    """
    first: dict[str, Event] = {}
    for event in profile.events:
        first.setdefault(event.component, event)
    for part in profile.components:
        on_gpu = [_on_gpu(tensor.device) for tensor in part.tensors]
        if not on_gpu:
            yield part, _before(first[part.name]) if part.name in first else 0
        elif all(on_gpu):
            yield part, part.allocated_bytes
        else:
            there = (tensor for tensor in part.tensors if _on_gpu(tensor.device))
            yield part, sum(round_block(t.numel * t.itemsize) for t in there)


def _before(event: Event) -> int:
    change = {"onload": -event.bytes, "offload": event.bytes}.get(event.kind, 0)
    return max(0, event.resident_bytes + change)


def _pairs(
    track: list[tuple[int, float, int]], end: tuple[int, float, int]
) -> Iterator[tuple[tuple[int, float, int], tuple[int, float, int]]]:
    yield from zip(track, [*track[1:], end], strict=True)


def _end(profile: Profile) -> tuple[int, float, int]:
    last = profile.events[-1] if profile.events else None
    return (last.ordinal, last.start_seconds + last.seconds, 0) if last else (-1, 0.0, 0)


def _where(part: Component, device_bytes: int, device: str) -> str:
    if not device_bytes:
        return "cpu"
    return device if device_bytes >= part.allocated_bytes else "split"


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")
