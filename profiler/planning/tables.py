"""Everything computed from one profile before a plan is requested, kept as long as the profile.

Plans under several budgets, a plan that is confirmed with growing slack, the smallest budget and the Pareto front use
the same tables.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from profiler.placements.scheme import Scheme, scheme_for
from profiler.planning.choices import Choices, choices_of
from profiler.planning.costs.link import UNKNOWN, Link, link_of
from profiler.planning.costs.table import CostTable, tabulate
from profiler.planning.replaying.workload import Workload, workload_of
from profiler.planning.search.solver import Solver
from profiler.record.cache import once_per_profile
from profiler.record.modular import is_modular_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.planning.costs.table import PlacementCost
    from profiler.record.profile import Profile

OBJECTIVES = ("seconds", "bytes", "first-image")


class ProfileTables:
    """The tables of one profile; they do not keep the profile alive.

    Args:
        profile: The profile to plan from.

    Raises:
        InputError: if it cannot be planned from.
    """

    def __init__(self, profile: Profile) -> None:
        self.workload: Workload = workload_of(profile)
        self.known_link: Link | None = link_of(profile)
        self._is_modular = is_modular_class(profile.pipeline_class)
        self.stock: Scheme = scheme_for(
            self.workload.names,
            sequence=profile.sequence,
            excluded=self.workload.names if self._is_modular else profile.excluded,
            sticky=self._is_modular,
        )
        self._places_itself = profile.places_itself
        self._shares_memory = profile.gpu.unified_memory
        self._made: dict[object, tuple[Choices, Solver]] = {}

    @property
    def link(self) -> Link:
        """The GPU's link; one that takes no time if its rates are unknown."""
        return self.known_link or UNKNOWN

    @cached_property
    def cost_table(self) -> CostTable:
        """The costs of every placement of every component."""
        return tabulate(self.workload, self.link)

    @cached_property
    def pool_table(self) -> CostTable:
        """The table with the loads that the budget must hold: with the host's weights, if host and GPU share memory."""
        return replace(self.cost_table, shared=True) if self._shares_memory else self.cost_table

    def search_for(
        self, objective: str, levers: tuple[str, ...], *, sticky: bool
    ) -> tuple[Choices, Solver]:
        """Return the search problems for an objective, with their solver."""
        key = (objective, levers, sticky)
        if key not in self._made:
            allowed = levers if sticky and not self._places_itself else ()
            choices = choices_of(
                self.workload,
                self.pool_table,
                self.stock,
                _COSTS[objective],
                sticky=sticky,
                levers=allowed,
                hooks=not self._is_modular,
            )
            self._made[key] = choices, Solver(choices.problems)
        return self._made[key]


def _bytes(cost: PlacementCost) -> int:
    return cost.h2d_bytes + cost.d2h_bytes


def _seconds(cost: PlacementCost) -> int:
    return cost.exposed_nanoseconds


def _first_image(cost: PlacementCost) -> int:
    return cost.first_nanoseconds


_COSTS: dict[str, Callable[[PlacementCost], int]] = {
    "seconds": _seconds,
    "bytes": _bytes,
    "first-image": _first_image,
}

tables_of = once_per_profile(ProfileTables)
