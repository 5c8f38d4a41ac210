"""What a recorded run did that its owner would want to know, each with evidence from the record and the fix.

Only what the record proves: a finding names the events and the bytes, and a line of code that changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.findings import capacity, card, failures, offload, placing, sharing, staying
from profiler.findings.finding import HINT, PROBLEM, WASTE, Finding
from profiler.remembering import once_per_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from profiler.profile import Profile

__all__ = ["HINT", "PROBLEM", "WASTE", "Finding", "findings"]


_FINDERS: tuple[Callable[[Profile], Iterable[Finding]], ...] = (
    capacity.room,
    capacity.fragmentation,
    capacity.spilled,
    failures.out_of_memory,
    failures.ended_early,
    failures.left_cast,
    sharing.shared_files,
    sharing.shared_exclusions,
    placing.on_card_before,
    placing.mode_changes,
    capacity.pinned,
    capacity.loading,
    card.slow_link,
    card.held_back,
)
_OF_MODEL_OFFLOAD: tuple[Callable[[Profile], Iterable[Finding]], ...] = (
    offload.ignored_exclusions,
    offload.excluded_travel,
    offload.idle_resident,
    offload.quantised_stays,
    placing.moved_by_hand,
    sharing.foreign_hooks,
    sharing.left_on_card,
)


@once_per_profile
def findings(profile: Profile) -> tuple[Finding, ...]:
    """Return what the record proves, gravest first."""
    found = [finding for find in _FINDERS for finding in find(profile)]
    if profile.mode != "resident" and profile.complete:
        found += staying.could_stay(profile)
    if profile.mode == "model":
        found += [finding for find in _OF_MODEL_OFFLOAD for finding in find(profile)]
    gravity = (PROBLEM, WASTE, HINT)
    return tuple(sorted(found, key=lambda finding: gravity.index(finding.severity)))
