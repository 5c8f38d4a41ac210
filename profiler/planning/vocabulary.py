"""The placements of a component that a plan may choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.placements.evictions import COPY
from profiler.placements.placement import DISK, LEVERS
from profiler.placements.table import PLACEMENTS
from profiler.planning.costs.table import SPLIT, Choice
from profiler.planning.costs.whole_components import STAYS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from profiler.placements.placement import Placement
    from profiler.planning.costs.table import CostTable
    from profiler.record.components import Component


def check_levers(levers: Collection[str]) -> None:
    """Raise InputError if one of them is unknown."""
    unknown = [lever for lever in levers if lever not in (*LEVERS, DISK)]
    if unknown:
        raise InputError(
            f"no lever is called {', '.join(unknown)}: choose of {', '.join((*LEVERS, DISK))}"
        )


def placements(
    component: Component, cost_table: CostTable, levers: Collection[str], *, leaving_rest: bool
) -> Iterator[Placement]:
    """Yield the placements inside a component that its libraries allow, and under which its parts have their weights.

    Args:
        component: The component to place.
        cost_table: The costs of every placement.
        levers: The levers that the plan may use.
        leaving_rest: Whether to yield the placements that leave a rest that moves as a whole, or the others.
    """
    if not component.parts or not cost_table.may_hook_inside(component.name):
        return
    where = STAYS if leaving_rest else SPLIT
    plain = cost_table.entered_by_forward(component.name) and not cost_table.is_cast(component.name)
    for kind in PLACEMENTS.values():
        if kind.leaves_rest != leaving_rest or (kind.needs_forward and not plain):
            continue
        for one in kind.options(component, levers):
            tried = Choice(where, COPY, one.representative())
            if cost_table.placement_cost(component.name, tried).sound:
                yield one
