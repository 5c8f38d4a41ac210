"""Time of weight copies between host and GPU, and of the rest of a call.

Compute time does not depend on the plan. A plan decides which copies run, at which rate, and what waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.gpus.cost_model import host_constant, shares_of
from profiler.gpus.hardware import gpu_spec
from profiler.units import NANOSECONDS

if TYPE_CHECKING:
    from profiler.gpus.cost_model import CostModel
    from profiler.record.events import Event
    from profiler.record.profile import Profile

HOST_COPY_BYTES_PER_SECOND = host_constant("memory_copy_gb_per_second") * 1e9
"""Rate at which weights are copied within host memory while they are page-locked."""

DISK_BYTES_PER_SECOND = host_constant("disk_gb_per_second") * 1e9
"""Rate at which weights are read from a local SSD."""


@dataclass(frozen=True)
class Link:
    """Seconds per byte of copies to the GPU and back, and seconds of a call without its weight copies.

    Attributes:
        other_seconds: Seconds of a call without weight copies; of several calls, the mean by weight; None if unknown.
        in_calls: The same for each of several calls.
        host_share: For which fraction of `other_seconds` the GPU waits for the host.
        cost: The GPU's cost model; None if the GPU is unknown, or the seconds were measured.
    """

    pageable_seconds: float
    back_seconds: float
    pinned_seconds: float
    other_seconds: float | None = None
    in_calls: tuple[float, ...] = ()
    host_share: float = 0.0
    cost: CostModel | None = None

    def pageable(self, nbytes: int) -> int:
        """Return the nanoseconds of a copy from pageable memory."""
        return round(nbytes * self.pageable_seconds * NANOSECONDS)

    def back(self, nbytes: int) -> int:
        """Return the nanoseconds of a copy from the GPU into pageable memory."""
        return round(nbytes * self.back_seconds * NANOSECONDS)

    def pinned(self, nbytes: int) -> int:
        """Return the nanoseconds of a copy from pinned memory."""
        return round(nbytes * self.pinned_seconds * NANOSECONDS)

    def of_call(self, place: int) -> Link:
        """Return the link with the seconds of one of several calls, by its place among them."""
        return replace(self, other_seconds=self.in_calls[place]) if self.in_calls else self

    def call_seconds(self, exposed_nanoseconds: float) -> float | None:
        """Return the seconds of a call that waits so long for weights; None if unknown."""
        if self.other_seconds is None:
            return None
        return self.other_seconds + exposed_nanoseconds / NANOSECONDS

    def band(self, seconds: float | None) -> tuple[float, float]:
        """Return by which fractions `call_seconds` may be too low and too high; 0 if that is unknown."""
        if not seconds or self.other_seconds is None or self.cost is None:
            return 0.0, 0.0
        host_seconds = self.host_share * self.other_seconds
        return self.cost.band(shares_of(seconds, host_seconds, seconds - self.other_seconds))


UNKNOWN = Link(0.0, 0.0, 0.0)
"""The link of a GPU with unknown rates: copies take no time."""


def link_of(profile: Profile) -> Link | None:
    """Return the link of `profile`: the rates it was made with, else those that its copies achieved, else its GPU's.

    None if the GPU is unknown, too.
    """
    weights = tuple(signature.weight for signature in profile.signatures) or (1,)
    last = max(event.call for event in profile.events)
    moves = [event for event in profile.events if event.kind in ("onload", "offload")]
    gpu = profile.gpu
    known_h2d, known_d2h = _known_rates(gpu.name)
    h2d = _seconds_per_byte(gpu.h2d_bytes_per_second, moves, "onload", known_h2d)
    d2h = _seconds_per_byte(gpu.d2h_bytes_per_second, moves, "offload", known_d2h)
    if h2d is None or d2h is None:
        return None
    pinned = 1 / gpu.pinned_bytes_per_second if gpu.pinned_bytes_per_second > 0 else h2d
    in_calls = [_other_seconds(profile, last - back) for back in reversed(range(len(weights)))]
    whole = sum(times * seconds for times, seconds in zip(weights, in_calls, strict=True))
    return Link(
        h2d,
        d2h,
        pinned,
        whole / sum(weights),
        tuple(in_calls),
        _host_share(profile),
        _cost(profile),
    )


def _host_share(profile: Profile) -> float:
    totals = profile.totals
    if totals.host_bound_seconds is None:
        return 0.0
    other = totals.seconds - (totals.exposed_transfer_seconds or 0.0)
    return min(totals.host_bound_seconds / other, 1.0) if other > 0 else 0.0


def _cost(profile: Profile) -> CostModel | None:
    try:
        return gpu_spec(profile.gpu.name).cost if profile.seconds_band else None
    except InputError:
        return None


def _other_seconds(profile: Profile, call: int) -> float:
    events = [event for event in profile.events if event.call == call]
    whole = events[-1].start_seconds + events[-1].seconds - events[0].start_seconds
    return whole - sum(event.seconds for event in events if event.kind in ("onload", "offload"))


def _known_rates(name: str) -> tuple[float, float]:
    """Return the bytes per second to a GPU of this name and back; 0 if it is unknown."""
    try:
        known = gpu_spec(name)
    except InputError:
        return 0.0, 0.0
    return known.h2d_bytes_per_second, known.d2h_bytes_per_second


def _seconds_per_byte(
    rate: float, moves: list[Event], kind: str, known_rate: float
) -> float | None:
    if rate > 0:
        return 1 / rate
    seconds = sum(event.seconds for event in moves if event.kind == kind)
    moved = sum(event.bytes for event in moves if event.kind == kind)
    if seconds and moved:
        return seconds / moved
    return 1 / known_rate if known_rate else None
