"""Agreement of a report's findings: no two recommend fixes that exclude each other.

Each finding states what its fix changes of the run. The most severe finding decides, and among equals the first. A
finding whose fix would change the same thing differently keeps its facts and takes over the fix that was chosen, or is
dropped if it is only advice.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from profiler.record.finding import HINT, PROBLEM, WASTE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LOWERING = frozenset({"vae_tiling", "size"})  # fixes for a peak that a plan lowers in its own way
_THE_PLAN = "plan.apply(pipe)  # the plan of this report"
_PLANNED: Mapping[str, Any] = {"mode": "plan"}


def agreed(found: Iterable[Finding], *, with_plan: bool = False) -> tuple[Finding, ...]:
    """Return the findings as consistent advice, most severe first.

    Args:
        found: The findings; those of equal severity in the order of importance.
        with_plan: Whether they are shown beside a plan, which then decides all placements.
    """
    given = [(_THE_PLAN, _PLANNED)] if with_plan else []
    kept = []
    for finding in sorted(found, key=lambda one: (one.gives_way, _gravity(one))):
        leads = next((one for one in given if _leads_elsewhere(one[1], finding)), None)
        if leads is None:
            given.append((finding.fix, finding.changes))
            kept.append(finding)
        elif not finding.is_advice:
            kept.append(dataclasses.replace(finding, fix=leads[0], changes=dict(leads[1])))
    return tuple(sorted(kept, key=_gravity))


def _gravity(finding: Finding) -> int:
    return (PROBLEM, WASTE, HINT).index(finding.severity)


def _leads_elsewhere(given: Mapping[str, Any], finding: Finding) -> bool:
    """Tell whether a finding must not be reported unchanged beside fixes already `given`.

    Beside a plan that is shown, no finding recommends making one, or lowering the plan's peak in another way.
    """
    if given is _PLANNED:
        lowers = finding.severity == PROBLEM and not _LOWERING.isdisjoint(finding.changes)
        return lowers or "mode" in finding.changes
    return excludes(given, finding.changes)


def excludes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two sets of changes give one property of the run two values."""
    return any(name in other and other[name] != value for name, value in one.items())
