"""No two findings of one report tell to do what excludes each other.

Each finding says what its fix changes of the run. The gravest decides, and among equals the first; one whose fix would
change the same otherwise keeps its facts and takes over the fix that was told, or goes, if it is nothing but advice.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from profiler.record.finding import HINT, PROBLEM, WASTE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LOWERING = frozenset({"vae_tiling", "size"})  # done for a peak that a plan lowers in its own way
_THE_PLAN = "plan.apply(pipe)  # the plan of this report"
_PLANNED: Mapping[str, Any] = {"mode": "plan"}


def agreed(found: Iterable[Finding], *, with_plan: bool = False) -> tuple[Finding, ...]:
    """Return the findings, gravest first, as one piece of advice.

    Args:
        found: the findings, those of one gravity in the order in which they matter.
        with_plan: whether they stand beside a plan, which then decides where everything lives.
    """
    told = [(_THE_PLAN, _PLANNED)] if with_plan else []
    kept = []
    for finding in sorted(found, key=lambda one: (one.gives_way, _gravity(one))):
        leads = next((one for one in told if _leads_elsewhere(one[1], finding)), None)
        if leads is None:
            told.append((finding.fix, finding.changes))
            kept.append(finding)
        elif not finding.is_advice:
            kept.append(dataclasses.replace(finding, fix=leads[0], changes=dict(leads[1])))
    return tuple(sorted(kept, key=_gravity))


def _gravity(finding: Finding) -> int:
    return (PROBLEM, WASTE, HINT).index(finding.severity)


def _leads_elsewhere(told: Mapping[str, Any], finding: Finding) -> bool:
    """Return whether a finding must not be told as it is beside what was `told`.

    Beside a plan that is shown, none tells to make one, or to lower in another way the peak that the plan lowers.
    """
    if told is _PLANNED:
        lowers = finding.severity == PROBLEM and not _LOWERING.isdisjoint(finding.changes)
        return lowers or "mode" in finding.changes
    return excludes(told, finding.changes)


def excludes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two sets of changes give something of the run two values."""
    return any(name in other and other[name] != value for name, value in one.items())
