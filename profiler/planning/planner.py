"""The best offload plan for a budget, exactly: every sequence and exclusion set is weighed, from one profile.

The promise is device bytes = context + peak allocated + slack + error band <= budget. Among the plans that keep it,
the one with the least weight copies per call wins (in bytes, or in seconds at the link's speed), then the one with
the lowest peak, then the one that changes the fewest components' placement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from profiler.errors import FindingError, InputError
from profiler.planning import does_not_fit
from profiler.planning.choices import Choices, choices_of
from profiler.planning.copy_clock import CopyClock, copy_clock
from profiler.planning.cost import Rides, evaluate, tabulate
from profiler.planning.placements import Scheme, scheme_for
from profiler.planning.plan import Alternative, Margin, Plan, Predicted, Proof, Smallest
from profiler.planning.replay import simulate
from profiler.planning.search import Outcome, Solver
from profiler.planning.uses import uses_of
from profiler.planning.workload import Workload, workload_of

if TYPE_CHECKING:
    from profiler.planning.cost import Ride
    from profiler.profile import Profile

_NANOSECONDS = 10**9
_FRONT_POINTS = 32
OBJECTIVES = ("bytes", "seconds")


class DoesNotFitError(FindingError):
    """No plan of model offload fits the budget; `smallest` is the one that comes closest."""

    def __init__(self, message: str, smallest: Smallest, missing_bytes: int) -> None:
        super().__init__(message)
        self.smallest = smallest
        self.missing_bytes = missing_bytes


def plan_offload(
    profile: Profile, budget_bytes: int, *, objective: str = "bytes", sticky: bool = True
) -> Plan:
    """Return the best plan of model offload for `profile` that stays within `budget_bytes`.

    Args:
        profile: One run of the pipeline, resident or under any plan of model offload.
        budget_bytes: What the plan may take of the card, context included.
        objective: What to minimise per call: weight bytes copied, or the seconds of copying them.
        sticky: Whether excluded components may be kept on the card between calls, which stock diffusers does not do.

    Raises:
        InputError: if the profile cannot be planned from, or the card's copy rates, needed for seconds, are unknown.
        DoesNotFitError: if no plan fits.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"no objective is called {objective!r}: choose bytes or seconds")
    desk = _Desk(profile, objective, sticky)
    outcome = desk.solver.search(limit=desk.peak_limit(budget_bytes))
    smallest = desk.smallest()
    if not outcome.found:
        missing = smallest.budget_bytes - budget_bytes
        raise DoesNotFitError(
            does_not_fit.message(profile, smallest, budget_bytes), smallest, missing
        )
    return desk.plan(outcome, smallest, budget_bytes)


def plan_for(profile: Profile, scheme: Scheme) -> Predicted:
    """Return what `scheme` promises for `profile`."""
    return _Desk(profile, "bytes", True).predicted(scheme)


@dataclass(frozen=True)
class _Desk:
    """One profile under consideration: its tables, and the units of the answer."""

    profile: Profile
    objective: str
    sticky: bool

    @cached_property
    def workload(self) -> Workload:
        return workload_of(self.profile)

    @cached_property
    def rides(self) -> Rides:
        return tabulate(self.workload)

    @cached_property
    def stock(self) -> Scheme:
        return scheme_for(
            self.workload.names, sequence=self.profile.sequence, excluded=self.profile.excluded
        )

    @cached_property
    def choices(self) -> Choices:
        return choices_of(self.workload, self.rides, self.stock, self.cost, sticky=self.sticky)

    @cached_property
    def solver(self) -> Solver:
        return Solver(self.choices.problems)

    @cached_property
    def clock(self) -> CopyClock:
        clock = copy_clock(self.profile)
        if clock is None and self.objective == "seconds":
            raise InputError(
                f"the copy rates of {self.profile.gpu.name} are unknown: plan with objective 'bytes'"
            )
        return clock or CopyClock(0.0, 0.0, None)

    @cached_property
    def band(self) -> Fraction:
        """The error band as it is written, 0.1 and not the binary number beside it: margins add up to the byte."""
        return Fraction(str(self.profile.error_band))

    def cost(self, ride: Ride) -> int:
        """Return what the search adds up: bytes, or nanoseconds."""
        if self.objective == "bytes":
            return ride.h2d_bytes + ride.d2h_bytes
        return round(self.clock.copy_seconds(ride.h2d_bytes, ride.d2h_bytes) * _NANOSECONDS)

    def margin(self, peak_bytes: int, budget_bytes: int) -> Margin:
        """Return the arithmetic of the promise."""
        gpu = self.profile.gpu
        band_bytes = math.ceil(peak_bytes * self.band)
        return Margin(
            context_bytes=gpu.context_bytes,
            peak_allocated_bytes=peak_bytes,
            slack_bytes=gpu.slack_bytes,
            error_band_bytes=band_bytes,
            device_bytes=gpu.context_bytes + peak_bytes + gpu.slack_bytes + band_bytes,
            budget_bytes=budget_bytes,
        )

    def peak_limit(self, budget_bytes: int) -> int:
        """Return the highest peak whose device bytes the budget covers; -1 where there is none."""
        gpu = self.profile.gpu
        room = budget_bytes - gpu.context_bytes - gpu.slack_bytes
        return max(math.floor(room / (1 + self.band)), -1)

    def predicted(self, scheme: Scheme) -> Predicted:
        totals = evaluate(self.rides, scheme)
        h2d_bytes, d2h_bytes = totals.h2d_weight_bytes, totals.d2h_weight_bytes
        return Predicted(
            peak_allocated_bytes=totals.peak_allocated_bytes,
            device_bytes=self.margin(totals.peak_allocated_bytes, 0).device_bytes,
            h2d_weight_bytes=h2d_bytes,
            d2h_weight_bytes=d2h_bytes,
            seconds=self.clock.call_seconds(h2d_bytes, d2h_bytes),
        )

    def alternative(self, scheme: Scheme) -> Alternative:
        return Alternative(
            sequence=scheme.sequence,
            excluded=self.ordered(scheme.excluded),
            sticky=scheme.sticky,
            predicted=self.predicted(scheme),
        )

    def ordered(self, names: frozenset[str]) -> tuple[str, ...]:
        return tuple(name for name in self.workload.names if name in names)

    def schemes(self, outcome: Outcome) -> list[Scheme]:
        return [self.choices.scheme(found.problem, found.keys) for found in outcome.found]

    def smallest(self) -> Smallest:
        """Return the plan with the lowest peak, and what decides that peak."""
        outcome = self.solver.search(wanted=1, peak_first=True)
        (scheme,) = self.schemes(outcome)
        loads = self.rides.loads(scheme)
        worst = max(range(len(loads)), key=lambda index: loads[index])
        moment = self.rides.moments[worst]
        event = moment.event
        when = f"denoise step {event.step}" if event.step >= 0 else event.phase
        return Smallest(
            budget_bytes=self.margin(loads[worst], 0).device_bytes,
            component=event.component,
            moment=when,
            weight_bytes=loads[worst] - moment.floating_bytes,
            other_bytes=moment.floating_bytes,
            plan=self.alternative(scheme),
        )

    def front(self) -> tuple[Alternative, ...]:
        """Return plans that no other beats in both peak and copying, smallest peak first.

        Of more than `_FRONT_POINTS` those that divide the range of peaks best are shown.
        """
        points = self.solver.front(most=_FRONT_POINTS).points
        return tuple(
            self.alternative(self.choices.scheme(found.problem, found.keys)) for found in points
        )

    def moves(self, scheme: Scheme) -> tuple[tuple[str, str, int], ...]:
        """Return the weight moves of one call, once calls repeat."""
        call = len(self.workload.calls)
        events = simulate(self.workload, scheme, calls=call + 1)
        return tuple(
            (event.kind, event.component, event.bytes)
            for event in events
            if event.call == call and event.kind in ("onload", "offload")
        )

    def plan(self, outcome: Outcome, smallest: Smallest, budget_bytes: int) -> Plan:
        """Return the plan that the search found, with everything a reader needs to believe it."""
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
            stock=self.alternative(self.stock),
            margin=self.margin(outcome.found[0].peak, budget_bytes),
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
            call=dict(profile.call),
            gpu=profile.gpu.name,
            dtype=profile.dtype,
            quantization=profile.quantization,
        )
