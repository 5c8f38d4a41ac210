"""Confirmation of a plan by a run: fragmentation cannot be computed from sizes.

The search counts allocated bytes, plus the slack stated for the GPU. The winning plan is run in the full allocator
before it is returned, on two virtual GPUs. The first has a quarter of the slack less than the budget, which remains
for later calls that find the free memory fragmented differently. The second has exactly the budget, because a smaller
GPU sometimes succeeds where a larger one fails: it empties its cache earlier. If either run fails and the plan records
a stream, which keeps freed blocks back, the best plan that records none is tried. Then the search is repeated with
twice the slack, and its best plans are tried in the same way. Last, the least sufficient slack is searched for between
the last that failed and the first that succeeded.

The promised peak is that of the run with exactly the budget: a workspace that does not fit is not allocated, and a
block that is not worth splitting is returned whole, so the peak depends on the budget as well as on the plan.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.errors import FindingError
from profiler.findings.run_state import expandable_segments
from profiler.planning.does_not_fit import DoesNotFitError
from profiler.planning.margin import promised
from profiler.planning.planner import plan_as
from profiler.record import settings
from profiler.units import MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.planning import Plan, Wish
    from profiler.record.profile import Profile

LEAST_SLACK_BYTES = 256 * MIB
"""Slack at which doubling begins for a GPU whose stated slack is less."""

ROUNDS = (2, 3, 4)
"""Denoise steps of the calls that a plan must complete, one after the other, before it is promised. Each call begins
with what earlier ones left behind, and differs in how far the host is ahead when a stream begins to copy weights."""

_KEPT = 4  # divisor of the stated slack: that part is withheld from the first confirming run
_HALVINGS = 3  # of the span in which the least sufficient slack is searched for


def confirmed_plan(
    profile: Profile, wish: Wish, *, run_peak: Callable[[Plan, int], int | None]
) -> Plan:
    """Return the best plan whose run succeeds under the budget, with the peak of that run.

    Args:
        profile: The profile to plan from.
        wish: The request for the plan.
        run_peak: Runs a plan's `ROUNDS` on a virtual GPU of so many bytes, and returns the highest allocated bytes;
            None if a run fails.

    Raises:
        FindingError: if no plan fits, or none succeeds although its bytes would fit.
    """
    trials = _Trials(profile, wish, run_peak)
    plan = plan_as(profile, wish)
    if (best := trials.best(plan)) is not None:
        return best
    too_little = max(profile.gpu.slack_bytes, LEAST_SLACK_BYTES)
    enough = 2 * too_little
    while (wider := trials.plan(enough)) is not None and (best := trials.best(wider)) is None:
        too_little, enough = enough, 2 * enough
    for _ in range(_HALVINGS):
        middle = (too_little + enough) // 2
        between = trials.plan(middle)
        if between is None:
            enough = middle
        elif (found := trials.best(between)) is not None:
            best, enough = found, middle
        else:
            too_little = middle
    if best is None:
        raise FindingError(_fragments(profile, plan))
    return best


class _Trials:
    """The plans of one request that were run, and the peaks of those that succeeded."""

    def __init__(
        self, profile: Profile, wish: Wish, run_peak: Callable[[Plan, int], int | None]
    ) -> None:
        self._profile = profile
        self._wish = wish
        self._run_peak = run_peak
        self._kept_bytes = profile.gpu.slack_bytes // _KEPT
        self._outcomes: list[tuple[Plan, int | None]] = []

    def plan(self, slack_bytes: int | None, *, recorded_streams: bool = True) -> Plan | None:
        """Return the best plan with so much slack; None if no plan fits."""
        wish = replace(self._wish, slack_bytes=slack_bytes, recorded_streams=recorded_streams)
        try:
            return plan_as(self._profile, wish)
        except DoesNotFitError:
            return None

    def best(self, plan: Plan) -> Plan | None:
        """Return the plan with the peak of its run, or the best one that records no stream; None if both fail."""
        found = self._run(plan)
        if found is None and any(one.get("record_stream") for one in plan.inside.values()):
            other = self.plan(plan.margin.slack_bytes, recorded_streams=False)
            found = None if other is None else self._run(other)
        return found

    def _run(self, plan: Plan) -> Plan | None:
        """Return the plan with the peak of its run; None if the run fails or leaves too little slack."""
        peak = self._peak(plan)
        found = None if peak is None else promised(self._profile, plan, peak)
        return found if found and found.margin.slack_bytes >= self._kept_bytes else None

    def _peak(self, plan: Plan) -> int | None:
        """Return the peak of a plan's run, or None; a plan equal to an earlier one is not run again."""
        for other, peak in self._outcomes:
            if (other.scheme, other.modifiers) == (plan.scheme, plan.modifiers):
                return peak
        budget = plan.budget_bytes
        peak = self._run_peak(plan, budget - self._kept_bytes)
        peak = peak if peak is None else self._run_peak(plan, budget)
        self._outcomes.append((plan, peak))
        return peak


def shortened(plan: Plan, steps: int) -> Plan:
    """Return the plan for calls of at most so many denoise steps."""
    return replace(
        plan,
        call=_of_steps(plan.call, steps),
        signatures=tuple(replace(one, call=_of_steps(one.call, steps)) for one in plan.signatures),
    )


def _of_steps(call: dict[str, Any], wanted: int) -> dict[str, Any]:
    """Return a call that runs at most so many steps; with a `strength`, only that part of its steps is run."""
    few = math.ceil(wanted / min(max(call.get("strength") or 1.0, 0.01), 1.0))
    steps = call.get("num_inference_steps", few)
    return {**call, "num_inference_steps": min(steps, few) if isinstance(steps, int) else few}


def _fragments(profile: Profile, plan: Plan) -> str:
    return (
        f"{profile.pipeline_class} would fit {format_bytes(plan.budget_bytes)} by its bytes "
        f"({format_bytes(plan.predicted.peak_allocated_bytes)} allocated), but no plan gets through "
        f"it: the free memory is in pieces. Try {', '.join(_remedies(profile))}."
    )


def _remedies(profile: Profile) -> list[str]:
    """Return changes that may let a plan succeed that would fit by its bytes, without those in effect already."""
    tiles = any(one.what == settings.VAE_TILING for one in profile.settings)
    return [
        *([] if expandable_segments(profile) else ["PYTORCH_ALLOC_CONF=expandable_segments:True"]),
        "a larger budget",
        *([] if tiles else ["pipe.vae.enable_tiling()"]),
        "a smaller size",
    ]
