"""A plan is promised only after it ran: fragmentation follows no sum, so the winner is run in the full allocator.

The search counts what is allocated, with a stated slack. Where the run of the winner does not get through under the
budget, the slack is doubled and the next best is tried.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.errors import FindingError
from profiler.planning.planner import DoesNotFitError, plan_as
from profiler.units import MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.planning import Plan, Wish
    from profiler.profile import Profile

LEAST_SLACK_BYTES = 256 * MIB
"""Where doubling begins for a card whose slack is stated as less."""

STEPS = 2
"""Denoise steps of a confirming call: one that is the first, and one that is not."""


def confirmed_plan(profile: Profile, wish: Wish, *, gets_through: Callable[[Plan], bool]) -> Plan:
    """Return the best plan whose run gets through under the budget.

    Args:
        profile: what to plan for.
        wish: what the plan is to be.
        gets_through: runs a plan with its budget as the card's capacity.

    Raises:
        FindingError: if no plan fits, or none gets through though its bytes would fit.
    """
    plan = plan_as(profile, wish)
    slack_bytes = max(profile.gpu.slack_bytes, LEAST_SLACK_BYTES)
    while not gets_through(_shortened(plan)):
        slack_bytes *= 2
        try:
            plan = plan_as(profile, replace(wish, slack_bytes=slack_bytes))
        except DoesNotFitError:
            raise FindingError(_fragments(profile, plan)) from None
    return plan


def _shortened(plan: Plan) -> Plan:
    return replace(
        plan,
        call=_with_few_steps(plan.call),
        signatures=tuple(replace(one, call=_with_few_steps(one.call)) for one in plan.signatures),
    )


def _with_few_steps(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call of as few steps as confirm it; of a picture that is worked on, only a part of them is run."""
    few = math.ceil(STEPS / min(max(call.get("strength") or 1.0, 0.01), 1.0))
    steps = call.get("num_inference_steps", few)
    shorter = min(steps, few) if isinstance(steps, int) else few
    return {**call, "num_inference_steps": shorter}


def _fragments(profile: Profile, plan: Plan) -> str:
    return (
        f"{profile.pipeline_class} would fit {format_bytes(plan.budget_bytes)} by its bytes "
        f"({format_bytes(plan.predicted.peak_allocated_bytes)} allocated), but no plan gets through "
        "it: the free memory is in pieces. Try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, "
        "a larger budget, or what lowers the peak (pipe.vae.enable_tiling(), a smaller size)."
    )
