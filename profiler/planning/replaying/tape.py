"""The tape of one call: operations of the pipeline, and what is allocated besides weights between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from profiler.record.events import Event, SubmoduleSpan


class Stretch(NamedTuple):
    """The stretch between two recorded events."""

    peak_floating_bytes: int
    base_floating_bytes: int  # at its beginning
    inside: SubmoduleSpan | None = None  # the parts that were entered and left in it


class Op(NamedTuple):
    """One operation of the tape; `event` is as recorded, but of a `FREE` only its place in the run counts."""

    kind: str  # a kind of events, or FREE
    event: Event
    fires: bool  # whether accelerate's hook acts here: an entry by `forward` or by a method that diffusers wrapped
    gap: tuple[Stretch, ...]  # since the previous operation
    before_floating_bytes: int
    peak_floating_bytes: int
    after_floating_bytes: int

    @property
    def gap_floating_bytes(self) -> int:
        """The highest floating bytes since the previous operation."""
        return max(stretch.peak_floating_bytes for stretch in self.gap)
