"""A plan is promised only after it ran: fragmentation follows no sum, so the winner is run in the full allocator.

The search counts what is allocated, with a slack that the card states. The winner is run on two cards: one with a
quarter of that slack less than the budget, which stays for calls that come later and find the free memory in other
pieces, and one of just the budget, because a card with less sometimes gets through where one with more does not: it
empties its cache earlier. Where either run fails, the search is given twice the slack, and the next best is tried; then
the least slack that does is looked for between the last that did not and the first that did.

The promised peak is that of the run on the budget: a workspace that does not fit is not allocated, and a block that is
not worth splitting is handed out whole, so the peak depends on the budget as well as on the plan.
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
"""Where doubling begins for a card whose slack is stated as less."""

ROUNDS = (2, 3, 4)
"""Denoise steps of the calls that a plan must get through, one after the other, before it is promised. Each begins with
what those before left behind; and how far the host is ahead when a stream begins to bring weights differs with them."""

_KEPT = (
    4  # the part of the stated slack that is not given to the first confirming run: one of so many
)
_HALVINGS = 3  # of the span in which the least slack that does is looked for


def confirmed_plan(
    profile: Profile, wish: Wish, *, run_peak: Callable[[Plan, int], int | None]
) -> Plan:
    """Return the best plan whose run gets through under the budget, with the peak of that run.

    Args:
        profile: what to plan for.
        wish: what the plan is to be.
        run_peak: runs a plan's `ROUNDS` on a card of so many bytes, and returns the highest allocated bytes; None if
            it does not get through.

    Raises:
        FindingError: if no plan fits, or none gets through though its bytes would fit.
    """
    trials = _Trials(profile, wish, run_peak)
    plan = plan_as(profile, wish)
    if (best := trials.run(plan)) is not None:
        return best
    too_little = max(profile.gpu.slack_bytes, LEAST_SLACK_BYTES)
    enough = 2 * too_little
    while (wider := trials.plan(enough)) is not None and (best := trials.run(wider)) is None:
        too_little, enough = enough, 2 * enough
    for _ in range(_HALVINGS):
        middle = (too_little + enough) // 2
        between = trials.plan(middle)
        if between is None:
            enough = middle
        elif (run := trials.run(between)) is not None:
            best, enough = run, middle
        else:
            too_little = middle
    if best is None:
        raise FindingError(_fragments(profile, plan))
    return best


class _Trials:
    """The plans of one wish that were run, and the peaks of those that got through."""

    def __init__(
        self, profile: Profile, wish: Wish, run_peak: Callable[[Plan, int], int | None]
    ) -> None:
        self._profile = profile
        self._wish = wish
        self._run_peak = run_peak
        self._kept_bytes = profile.gpu.slack_bytes // _KEPT
        self._outcomes: list[tuple[Plan, int | None]] = []

    def plan(self, slack_bytes: int) -> Plan | None:
        """Return the best plan with so much slack; None where it does not fit."""
        try:
            return plan_as(self._profile, replace(self._wish, slack_bytes=slack_bytes))
        except DoesNotFitError:
            return None

    def run(self, plan: Plan) -> Plan | None:
        """Return the plan with the peak of its run; None if it does not get through."""
        peak = self._peak(plan)
        found = None if peak is None else promised(self._profile, plan, peak)
        return found if found and found.margin.slack_bytes >= self._kept_bytes else None

    def _peak(self, plan: Plan) -> int | None:
        """Return the peak of a plan's run; one that does what an earlier one did is not run again."""
        for other, peak in self._outcomes:
            if (other.scheme, other.modifiers) == (plan.scheme, plan.modifiers):
                return peak
        budget = plan.budget_bytes
        peak = self._run_peak(plan, budget - self._kept_bytes)
        peak = peak if peak is None else self._run_peak(plan, budget)
        self._outcomes.append((plan, peak))
        return peak


def shortened(plan: Plan, steps: int) -> Plan:
    """Return the plan for calls of so many denoise steps at most."""
    return replace(
        plan,
        call=_of_steps(plan.call, steps),
        signatures=tuple(replace(one, call=_of_steps(one.call, steps)) for one in plan.signatures),
    )


def _of_steps(call: dict[str, Any], wanted: int) -> dict[str, Any]:
    """Return a call of so many steps at most; of a picture that is worked on, only a part of them is run."""
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
    """Return what may let a plan get through that would fit by its bytes; nothing that is in effect already."""
    tiles = any(one.what == settings.VAE_TILING for one in profile.settings)
    return [
        *([] if expandable_segments(profile) else ["PYTORCH_ALLOC_CONF=expandable_segments:True"]),
        "a larger budget",
        *([] if tiles else ["pipe.vae.enable_tiling()"]),
        "a smaller size",
    ]
