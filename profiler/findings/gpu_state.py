"""Findings about the GPU itself, from what its driver reported during a measured run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.findings.evidence import ordinals, waited_seconds
from profiler.record.finding import HINT, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import GpuState, Profile

_EXPECTED = "power limit"  # normal for a GPU under load


def slow_link(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if weights were moved over a link that ran below the limit of GPU and slot."""
    moves = [event for event in profile.events if event.kind in ("onload", "offload")]
    travelled = sum(event.bytes for event in moves)
    links = _links(profile.card_state)
    if links is None or not travelled or links[0].rate >= links[1].rate:
        return
    now, most = links
    yield Finding(
        kind="slow_link",
        severity=HINT,
        title=f"The link ran as PCIe {now.generation} x{now.width}, and could as "
        f"PCIe {most.generation} x{most.width}",
        detail="The driver was asked while weights travelled, when a link is awake. Lanes are lost to a second GPU, a "
        "riser, or a slot that has fewer; a generation to a riser or the firmware's setting.",
        fix="another slot, or the slot's generation in the firmware's settings",
        changes={},
        bytes=travelled,
        seconds=waited_seconds(profile, moves) * (1 - now.rate / most.rate),
        events=ordinals(moves),
    )


def held_back(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if heat or the power supply lowered the GPU's clocks; its own power limit is not a finding."""
    state = profile.card_state
    reasons = [why for why in state.held_back_by if why != _EXPECTED] if state else []
    if not reasons:
        return
    yield Finding(
        kind="held_back",
        severity=HINT,
        title=f"The GPU ran below its clocks: {', '.join(reasons)}",
        detail="So the driver said when it was asked; seconds of this run are no measure of the GPU.",
        fix="better cooling or supply, or a lower power limit: nvidia-smi -pl",
        changes={},
        bytes=0,
    )


class _Link(NamedTuple):
    generation: int
    width: int

    @property
    def rate(self) -> int:
        """The rate in lanes of the first generation: each generation doubles it. From knowledge."""
        return self.width << (self.generation - 1)


def _links(state: GpuState | None) -> tuple[_Link, _Link] | None:
    """Return the link as it ran, and its limit; None if either is unknown."""
    if state is None or state.link_generation is None or state.link_width is None:
        return None
    if state.most_link_generation is None or state.most_link_width is None:
        return None
    now = _Link(state.link_generation, state.link_width)
    return now, _Link(state.most_link_generation, state.most_link_width)
