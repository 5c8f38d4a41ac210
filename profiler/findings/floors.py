"""Lower bounds of a run's GPU memory under another placement, from the record of this run.

The arithmetic is exact, so a placement that it rejects cannot fit: the weights that the other placement holds at a
time, plus the recorded activations beside them, less the part that kernels could have done without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.record import readings as reading
from profiler.record.moments import MOVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from profiler.record.components import Component
    from profiler.record.profile import Profile


def exceeds(profile: Profile, changes: Mapping[str, Any]) -> bool:
    """Tell whether a run with these changes cannot fit the profile's GPU."""
    mode = changes.get("mode")
    if mode not in _HELD or "dtype" in changes:
        return False
    room = profile.gpu.capacity_bytes - profile.gpu.context_bytes
    return floor_bytes(profile, mode) > room


def floor_bytes(profile: Profile, mode: str) -> int:
    """Return the least bytes that must be allocated at once under a mode of `modes.MODES`."""
    held = {part.name: _HELD[mode](part) for part in profile.components}
    if mode == "resident":
        held = dict.fromkeys(held, sum(held.values()))
    surely = 1.0 - profile.error_band_below
    beside = (held.get(name, 0) + int(count * surely) for name, count in _activations(profile))
    return max([*held.values(), *beside], default=0)


def _activations(profile: Profile) -> Iterator[tuple[str, int]]:
    """Yield, for each stretch of computing, the component and the highest bytes allocated besides weights."""
    resident = reading.initial_resident_bytes(profile)
    entered: list[str] = []
    for event in profile.events:
        if entered:
            yield entered[-1], event.lead_peak_bytes - sum(resident.values())
        if event.component in resident:
            resident[event.component] = event.resident_bytes
        if event.kind == "enter":
            entered.append(event.component)
        elif event.kind == "exit" and event.component in entered:
            entered.remove(event.component)
    failure = profile.failure
    if failure is not None and failure.requested_bytes and failure.doing not in MOVES:
        beside = sum(item.bytes for item in failure.holders if item.what != "weights")
        yield failure.component, beside + failure.requested_bytes


def _largest_block(part: Component) -> int:
    return max((block.bytes for block in part.blocks), default=part.allocated_bytes)


def _largest_tensor(part: Component) -> int:
    return max((tensor.numel * tensor.itemsize for tensor in part.tensors), default=0)


_HELD = {
    "resident": lambda part: part.allocated_bytes,
    "model": lambda part: part.allocated_bytes,
    "group-block": _largest_block,
    "group-leaf": _largest_tensor,
    "sequential": _largest_tensor,
}
"""The least bytes of a component's weights that a mode holds at a time."""
