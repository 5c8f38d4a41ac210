"""Planning from one profile: its tables, the limits of its GPU, and the plan as a record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from profiler.errors import FindingError, InputError
from profiler.placements.placement import DISK, LEVERS, RECORDED, SWAP
from profiler.placements.scheme import known_part
from profiler.placements.table import placement_record
from profiler.planning.costs.table import CostTable, evaluate
from profiler.planning.margin import band_of, margin_of
from profiler.planning.plan import (
    TIE,
    Alternative,
    Margin,
    Plan,
    PlannedCall,
    Predicted,
    Proof,
    Smallest,
)
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.uses import uses_of
from profiler.planning.search.solver import Outcome, Problem, Solver, search
from profiler.planning.tables import ProfileTables, tables_of
from profiler.planning.vocabulary import placements
from profiler.record import readings as reading
from profiler.record.settings import modifiers_of, of_workload
from profiler.units import NANOSECONDS, format_bytes

if TYPE_CHECKING:
    from profiler.placements.scheme import Scheme
    from profiler.planning.choices import Choices
    from profiler.planning.replaying.workload import Workload
    from profiler.planning.wish import Wish
    from profiler.record.profile import CallSignature, Profile

_FRONT_POINTS = 32


@dataclass(frozen=True)
class Session:
    """One profile and one request: the tables, the limits, and the records of the answer."""

    profile: Profile
    wish: Wish

    @cached_property
    def tables(self) -> ProfileTables:
        """The profile's tables, kept as long as the profile."""
        return tables_of(self.profile)

    @property
    def workload(self) -> Workload:
        """The plan-independent part of the profile's calls."""
        return self.tables.workload

    @property
    def cost_table(self) -> CostTable:
        """The costs of every placement of every component."""
        return self.tables.cost_table

    @property
    def pool_table(self) -> CostTable:
        """The costs with the loads that the budget must hold."""
        return self.tables.pool_table

    @property
    def choices(self) -> Choices:
        """The choices of the search."""
        return self._search[0]

    @property
    def solver(self) -> Solver:
        """The solver of the search over `choices`."""
        return self._search[1]

    @cached_property
    def _search(self) -> tuple[Choices, Solver]:
        return self.tables.search_for(self.objective, self.levers, sticky=self.wish.sticky)

    @property
    def shares_memory(self) -> bool:
        """Whether host and GPU share one memory, which the budget is of."""
        return self.profile.gpu.unified_memory

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The settings that lowered the peak of the profile's run besides its placement, and that the plan keeps."""
        return modifiers_of(self.profile.settings)

    @property
    def levers(self) -> tuple[str, ...]:
        """The levers that can be replayed for this profile.

        Layers that are cast for each forward allocate further memory, which the replay of streamed blocks and of groups
        does not model: of the levers, only swapping is left. Where host and GPU share one memory, a copy on the host
        takes what it saves on the GPU: only the disk is left.
        """
        if self.shares_memory:
            return tuple(lever for lever in self.wish.levers if lever == DISK)
        if "fp8" in self.modifiers:
            return tuple(lever for lever in self.wish.levers if lever == SWAP)
        return (*self.wish.levers, RECORDED) if self.wish.recorded_streams else self.wish.levers

    def compared_with(self) -> Scheme:
        """Return the placement that the plan is compared with.

        Raises:
            InputError: if the pipeline cannot be placed so.
        """
        wished = self.wish.compared_with
        if wished is None:
            return self.tables.stock
        if not self.runs(wished):
            raise InputError(
                f"{self.profile.pipeline_class} cannot be placed in the mode that the plan is to be compared with: "
                "name another --mode, or none"
            )
        return wished

    @cached_property
    def objective(self) -> str:
        """The objective to minimise."""
        known = self.tables.known_link is not None
        if not known and self.wish.objective not in (None, "bytes"):
            raise InputError(
                f"the copy rates of {self.profile.gpu.name} are unknown: plan with objective 'bytes'"
            )
        return self.wish.objective or ("seconds" if known else "bytes")

    @property
    def slack_bytes(self) -> int:
        """The allowance for fragmentation."""
        wished = self.wish.slack_bytes
        return self.profile.gpu.slack_bytes if wished is None else wished

    @cached_property
    def other_host_bytes(self) -> int:
        """The host memory that the call takes besides weights."""
        weights = sum(part.bytes for part in self.profile.components)
        return max(self.profile.totals.host_peak_bytes - weights, 0) if self._predicted else 0

    @property
    def _predicted(self) -> bool:
        return self.profile.source == "predicted"

    @cached_property
    def use_limits(self) -> tuple[int | None, ...]:
        """The host memory that the weights may take."""
        ram_bytes = None if self.shares_memory else self.wish.ram_bytes
        return (None if ram_bytes is None else ram_bytes - self.other_host_bytes,)

    def margin(self, peak_bytes: int, budget_bytes: int, host_bytes: int = 0) -> Margin:
        """Return the arithmetic of the promise."""
        return margin_of(
            self.profile,
            peak_bytes,
            slack_bytes=self.slack_bytes,
            budget_bytes=budget_bytes,
            host_bytes=host_bytes,
        )

    @property
    def _other_shared_bytes(self) -> int:
        """The host memory besides weights that shares the budget."""
        return self.other_host_bytes if self.shares_memory else 0

    def shared_host_bytes(self, scheme: Scheme) -> int:
        """Return by how much weights on the host, and what else the call takes there, raise what both hold at once."""
        if not self.shares_memory:
            return 0
        alone, together = (max(each.loads(scheme)) for each in (self.cost_table, self.pool_table))
        return together - alone + self._other_shared_bytes

    def peak_limit(self, budget_bytes: int) -> int:
        """Return the highest peak whose device bytes the budget covers; -1 if there is none."""
        gpu = self.profile.gpu
        room = budget_bytes - gpu.context_bytes - self.slack_bytes - self._other_shared_bytes
        return max(math.floor(room / (1 + band_of(self.profile))), -1)

    def predicted(self, scheme: Scheme) -> Predicted:
        """Return the promised figures of a scheme."""
        known = known_part(scheme, self.workload.names)
        totals, link = evaluate(self.cost_table, known), self.tables.link
        calls = sum(self.workload.weights)
        seconds = link.call_seconds(totals.exposed_nanoseconds / calls)
        too_low, too_high = link.band(seconds)
        return Predicted(
            peak_allocated_bytes=totals.peak_allocated_bytes,
            device_bytes=self.margin(
                totals.peak_allocated_bytes, 0, self.shared_host_bytes(known)
            ).device_bytes,
            h2d_weight_bytes=totals.h2d_weight_bytes // calls,
            d2h_weight_bytes=totals.d2h_weight_bytes // calls,
            seconds=seconds,
            seconds_band=too_low,
            seconds_band_below=too_high,
            first_seconds=link.of_call(0).call_seconds(totals.first_nanoseconds),
            host_pageable_bytes=totals.host.pageable,
            host_pinned_bytes=totals.host.pinned,
        )

    def runs(self, scheme: Scheme) -> bool:
        """Tell whether every split component can be split, and none leaves the GPU while it runs."""
        parts = {part.name: part for part in self.profile.components}
        return self.cost_table.sound(scheme) and all(
            inside
            in placements(
                parts[name], self.cost_table, (*LEVERS, DISK, RECORDED), leaving_rest=False
            )
            for name in parts
            if (inside := scheme.split(name)) is not None
        )

    def alternative(self, scheme: Scheme) -> Alternative:
        """Return a scheme with its promised figures, as a record."""
        return Alternative(
            sequence=scheme.sequence,
            excluded=self.ordered(scheme.excluded),
            sticky=scheme.sticky,
            predicted=self.predicted(scheme),
            inside=_records(scheme),
            swaps=dict(scheme.swaps),
        )

    def ordered(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return names in the order of the pipeline's components."""
        return tuple(name for name in self.workload.names if name in names)

    def settled(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the simplest of the plans tied with the best one before it, if that is another."""
        best = outcome.found[0]
        simplest = self.solver.simplest(
            best.cost + self._tied_nanoseconds(best.cost),
            limit=self.peak_limit(self.wish.budget_bytes),
            use_limits=self.use_limits,
            time_limit_seconds=self.wish.time_limit_seconds,
        ).found
        if not simplest or simplest[0].penalty == best.penalty:
            return outcome
        return replace(outcome, found=(*simplest, best))

    def _tied_nanoseconds(self, cost: int) -> int:
        """Return by how much the cost of a plan may exceed the best one and still be tied with it."""
        link, calls = self.tables.link, sum(self.workload.weights)
        if self.objective == "first-image":
            link, calls = link.of_call(0), 1
        seconds = link.call_seconds(cost / calls)
        if self.objective == "bytes" or seconds is None:
            return 0
        return int(seconds * calls * TIE * NANOSECONDS)

    def schemes(self, outcome: Outcome) -> list[Scheme]:
        """Return the schemes that a search found, best first."""
        return [self.choices.scheme(found) for found in outcome.found]

    def smallest(self) -> Smallest:
        """Return the plan with the lowest peak, and the moment that decides that peak."""
        outcome = self.solver.search(wanted=1, peak_first=True, use_limits=self.use_limits)
        if not outcome.found:
            raise FindingError(self._no_ram())
        (scheme,) = self.schemes(outcome)
        loads = self.pool_table.loads(scheme)
        worst = max(range(len(loads)), key=lambda index: loads[index])
        moment = self.cost_table.moments[worst]
        event = moment.event
        when = f"denoise step {event.step}" if event.step >= 0 else event.phase
        return Smallest(
            budget_bytes=self.margin(loads[worst], 0, self._other_shared_bytes).device_bytes,
            component=event.component,
            moment=when,
            weight_bytes=loads[worst] - moment.floating_bytes,
            other_bytes=moment.floating_bytes,
            plan=self.alternative(scheme),
        )

    def front(self) -> tuple[Alternative, ...]:
        """Return the plans that no other beats in both peak and cost, smallest peak first."""
        found = self.solver.front(
            use_limits=self.use_limits,
            most=_FRONT_POINTS,
            time_limit_seconds=self.wish.time_limit_seconds,
        )
        return tuple(self.alternative(self.choices.scheme(point)) for point in found.points)

    def _no_ram(self) -> str:
        least = search(self._by_host(), wanted=1).found[0].cost + self.other_host_bytes
        return (
            f"{self.profile.pipeline_class} does not fit {format_bytes(self.wish.ram_bytes or 0)} of host memory under "
            f"any plan: the least is {format_bytes(least)}. Try more RAM, the lever {DISK!r}, or a smaller dtype."
        )

    def _by_host(self) -> tuple[Problem, ...]:
        """Return the problems with host memory as the cost."""
        return tuple(
            replace(
                problem,
                decisions=tuple(
                    tuple(option._replace(cost=option.uses[0]) for option in options)
                    for options in problem.decisions
                ),
            )
            for problem in self.choices.problems
        )

    def moves(self, scheme: Scheme) -> tuple[tuple[str, str, int], ...]:
        """Return the weight moves of one call, or of each of several calls, once they repeat."""
        repeated = self.workload.repeated
        events = simulate(self.workload, scheme, calls=repeated.stop)
        return tuple(
            (event.kind, event.component, event.bytes)
            for event in events
            if event.call in repeated and event.kind in ("onload", "offload")
        )

    def planned_calls(self, scheme: Scheme) -> tuple[PlannedCall, ...]:
        """Return the figures of each of several calls under `scheme`."""
        return tuple(
            self._planned_call(signature, place, scheme)
            for place, signature in enumerate(self.profile.signatures)
        )

    def _planned_call(self, signature: CallSignature, place: int, scheme: Scheme) -> PlannedCall:
        totals = evaluate(self.cost_table.of_call(place), scheme)
        link = self.tables.link.of_call(place)
        seconds = link.call_seconds(totals.exposed_nanoseconds)
        too_low, too_high = link.band(seconds)
        return PlannedCall(
            pipeline_class=signature.pipeline_class,
            call=dict(signature.call),
            weight=signature.weight,
            h2d_weight_bytes=totals.h2d_weight_bytes,
            d2h_weight_bytes=totals.d2h_weight_bytes,
            seconds=seconds,
            seconds_band=too_low,
            seconds_band_below=too_high,
        )

    def plan(self, outcome: Outcome, smallest: Smallest) -> Plan:
        """Return the plan that the search found, with the evidence for it."""
        best, *others = self.schemes(outcome)
        cost = outcome.found[0].cost
        names = self.workload.names
        profile = self.profile
        return Plan(
            pipeline_class=profile.pipeline_class,
            sequence=best.sequence,
            excluded=self.ordered(best.excluded),
            sticky=best.sticky,
            immovable=self.ordered(self.workload.fixed),
            placements=best.placements(names),
            predicted=self.predicted(best),
            stock=self.alternative(self.compared_with()),
            margin=self.margin(
                outcome.found[0].peak
                if not self.shares_memory
                else max(self.cost_table.loads(best)),
                self.wish.budget_bytes,
                self.shared_host_bytes(best),
            ),
            proof=Proof(
                objective=self.objective,
                cost=cost,
                bound=cost if outcome.bound is None else min(cost, outcome.bound),
                gap=outcome.gap,
                nodes=outcome.nodes,
                candidates=self.choices.candidates,
            ),
            smallest=smallest,
            runner_up=self.alternative(others[0]) if others else None,
            front=self.front(),
            moves=self.moves(best),
            uses=uses_of(self.workload),
            model=profile.model,
            config=profile.config,
            call=dict(profile.call),
            gpu=profile.gpu.name,
            gpu_bytes=profile.gpu.capacity_bytes,
            gpu_is_default=profile.gpu.is_default,
            gpu_is_unified=profile.gpu.unified_memory,
            dtype=profile.dtype,
            dtypes=dict(profile.dtypes),
            other_dtypes=reading.other_dtypes(profile),
            quantization=profile.quantization,
            settings=of_workload(profile.settings),
            inside=_records(best),
            swaps=dict(best.swaps),
            ram_bytes=self.wish.ram_bytes,
            modifiers=self.modifiers,
            signatures=self.planned_calls(best),
        )


def _records(scheme: Scheme) -> dict[str, dict[str, Any]]:
    return {name: placement_record(inside) for name, inside in scheme.inside.items()}
