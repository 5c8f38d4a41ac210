"""What a recorded run did that its owner would want to know, each with evidence from the record and the fix.

Only what the record proves: a finding names the events and the bytes, and a line of code that changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.findings import capacity, failures, offload, staying
from profiler.findings.finding import HINT, PROBLEM, WASTE, Finding
from profiler.remembering import once_per_profile

if TYPE_CHECKING:
    from profiler.profile import Profile

__all__ = ["HINT", "PROBLEM", "WASTE", "Finding", "findings"]


@once_per_profile
def findings(profile: Profile) -> tuple[Finding, ...]:
    """Return what the record proves, gravest first."""
    found = [
        *capacity.room(profile),
        *failures.ended_early(profile),
        *capacity.pinned(profile),
    ]
    if profile.mode == "model":
        found += offload.ignored_exclusions(profile)
        found += offload.excluded_travel(profile)
        found += offload.idle_resident(profile)
    if profile.mode != "resident" and profile.complete:
        found += staying.could_stay(profile)
    gravity = (PROBLEM, WASTE, HINT)
    return tuple(sorted(found, key=lambda finding: gravity.index(finding.severity)))
