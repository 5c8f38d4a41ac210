"""The driver's readings of a GPU during a trace, taken rarely: a driver call takes longer than an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from profiler.gpus import nvml
from profiler.record.profile import GpuState

_HIGHER = 1.02  # times what was reserved at the last driver call


class DriverWatch:
    """Queries the driver at the start, at the end, and whenever torch has reserved more than ever before."""

    def __init__(self) -> None:
        self._readings: list[nvml.Status] = []
        self._asked_at_bytes = 0
        self._counters = nvml.link_counters()
        self._ask()

    def saw(self, reserved_bytes: int) -> None:
        """Note how much torch has reserved."""
        if reserved_bytes > self._asked_at_bytes * _HIGHER:
            self._asked_at_bytes = reserved_bytes
            if self._readings:
                self._ask()

    def _ask(self) -> None:
        status = nvml.status()
        if status is not None:
            self._readings.append(status)

    def state(self) -> GpuState | None:
        """Query the driver once more, and return the readings; None if there is no driver."""
        self._ask()
        if not self._readings:
            return None
        links = [reading.link for reading in self._readings]
        received, sent = self._since()
        reasons = (why for reading in self._readings for why in reading.held_back_by)
        return GpuState(
            readings=len(self._readings),
            used_bytes=_highest(self._readings, lambda reading: reading.used_bytes),
            others_bytes=_highest(self._readings, lambda reading: reading.others_bytes),
            link_generation=_highest(links, lambda link: link.generation),
            link_width=_highest(links, lambda link: link.width),
            most_link_generation=_highest(links, lambda link: link.most_generation),
            most_link_width=_highest(links, lambda link: link.most_width),
            received_bytes=received,
            sent_bytes=sent,
            held_back_by=tuple(dict.fromkeys(reasons)),
        )

    def _since(self) -> tuple[int | None, int | None]:
        """Return the bytes that crossed the link since the start; None if not counted, or if a counter was reset."""
        now = nvml.link_counters()
        if now is None or self._counters is None:
            return None, None
        received, sent = (after - before for after, before in zip(now, self._counters, strict=True))
        return (received, sent) if received >= 0 and sent >= 0 else (None, None)


def _highest(records: list[Any], figure: Callable[[Any], int | None]) -> int | None:
    known = [value for value in map(figure, records) if value is not None]
    return max(known, default=None)
