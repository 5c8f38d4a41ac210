"""Checks of the words in a plan, which is a file that people send each other and which becomes code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.checking.code_words import check_known, check_names, check_words
from profiler.placements.evictions import SWAPS
from profiler.placements.scheme import MODIFIERS, OFFLOAD, OUTSIDE, RESIDENT
from profiler.placements.table import PLACEMENTS, placement_of
from profiler.planning.tables import OBJECTIVES
from profiler.record.setting_words import check_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.planning.plan import Alternative, Plan

_PLACES = (OFFLOAD, OUTSIDE, RESIDENT, *(name for one in PLACEMENTS.values() for name in one.names))
_COMPONENT, _CLASS = "a component", "a class"


def check_plan(plan: Plan) -> None:
    """Raise ValueError if a word of `plan` is not a name or not in the vocabulary, or if a component is not placed."""
    check_names(_CLASS, [plan.pipeline_class, *(one.pipeline_class for one in plan.signatures)])
    check_names(_COMPONENT, plan.placements)
    check_names(_COMPONENT, [plan.smallest.component], empty=True)
    check_known("component of the plan", _components(plan), plan.placements)
    check_known("placement", plan.placements.values(), _PLACES)
    check_known("modifier", plan.modifiers, MODIFIERS)
    check_known("objective", [plan.proof.objective], OBJECTIVES)
    check_known("move", (kind for kind, _, _ in plan.moves), ("onload", "offload"))
    check_names("a dtype", [plan.dtype, *(plan.dtypes or {}).values()], empty=True)
    check_names("a dtype", plan.other_dtypes.values())
    check_names(_COMPONENT, (*(plan.dtypes or ()), *plan.other_dtypes, *plan.quantization))
    check_settings(plan.settings)
    check_words("quantisation", plan.quantization.values())
    for arguments in (plan.call, *(one.call for one in plan.signatures)):
        check_names("an argument", arguments)
    for one in _schemes(plan):
        check_known("way off the GPU", one.swaps.values(), SWAPS)
        for record in one.inside.values():
            placement_of(record)


def _schemes(plan: Plan) -> Iterator[Plan | Alternative]:
    yield plan
    yield from (plan.stock, plan.smallest.plan, *plan.front)
    if plan.runner_up is not None:
        yield plan.runner_up


def _components(plan: Plan) -> Iterator[str]:
    """Yield every component name in the plan, other than those of its placements."""
    for one in _schemes(plan):
        yield from (*one.sequence, *one.excluded, *one.inside, *one.swaps)
    yield from plan.immovable
    yield from (name for _, name, _ in plan.moves)
    for use in plan.uses:
        yield from (use.component, *use.within)
