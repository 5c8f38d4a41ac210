"""Read and reset CUDA peak statistics between events; inside a trace, torch reports peaks as without these resets.

Torch has no way to set a peak, so after the trace its statistics start anew, from the last reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from profiler.patching import Patches


class Figures(NamedTuple):
    """The figures of torch's allocator."""

    peak_bytes: int
    allocated_bytes: int
    peak_reserved_bytes: int
    reserved_bytes: int


def figures() -> Figures:
    """Return the four figures from one reading: torch gathers all its statistics for each one queried by name."""
    stats = torch.cuda.memory_stats_as_nested_dict()
    allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
    return Figures(allocated["peak"], allocated["current"], reserved["peak"], reserved["current"])


class Peaks:
    """Takes peaks, one interval after another, and keeps the figures that torch would report without that.

    While it watches, `torch.cuda.max_memory_allocated` and related functions return those figures, and a reset by other
    code loses no peak.
    """

    def __init__(self) -> None:
        self._users = figures()  # with peaks since the last reset by other code
        self._carried = 0
        self._reset = torch.cuda.reset_peak_memory_stats
        self._reset()

    def take(self) -> Figures:
        """Return the figures with the peaks since the last call, and start new peaks."""
        now = self._taken()
        carried, self._carried = self._carried, 0
        return now._replace(peak_bytes=max(now.peak_bytes, carried))

    def watch(self, patches: Patches) -> None:
        """Answer in torch's place until `patches` are restored."""
        ours = {
            "max_memory_allocated": lambda: self._seen(figures()).peak_bytes,
            "max_memory_reserved": lambda: self._seen(figures()).peak_reserved_bytes,
            "reset_peak_memory_stats": self._forget,
        }
        for owner in (torch.cuda, torch.cuda.memory):
            for name, answer in ours.items():
                patches.replace(owner, name, _for_this_gpu(answer, getattr(owner, name)))

    def _taken(self) -> Figures:
        now = figures()
        self._users = self._seen(now)
        self._reset()
        return now

    def _seen(self, now: Figures) -> Figures:
        return Figures(*map(max, self._users, now))

    def _forget(self) -> None:
        """Reset the peaks on behalf of other code, without losing the peak of the current interval."""
        now = self._taken()
        self._carried = max(self._carried, now.peak_bytes)
        self._users = Figures(now.allocated_bytes, 0, now.reserved_bytes, 0)


def _for_this_gpu(ours: Callable[[], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def answer(device: Any = None) -> Any:
        index = device if isinstance(device, int | None) else torch.device(device).index
        if index is None or index == torch.cuda.current_device():
            return ours()
        return original(device)

    answer.__name__, answer.__doc__ = original.__name__, original.__doc__
    return answer
