"""A plan is promised only after it ran: fragmentation follows no sum, so the winner is run in the full allocator.

The search counts what is allocated, with a slack that the card states. The winner is run on two cards: one with a
quarter of that slack less than the budget, which stays for calls that come later and find the free memory in other
pieces, and one of just the budget, because a card with less sometimes gets through where one with more does not: it
empties its cache earlier. Where either run fails, the search is given twice the slack, and the next best is tried.
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

ROUNDS = (2, 3, 4)
"""Denoise steps of the calls that a plan must get through, one after the other, before it is promised. Each begins with
what those before left behind; and how far the host is ahead when a stream begins to bring weights differs with them."""

_KEPT = (
    4  # the part of the stated slack that is not given to the first confirming run: one of so many
)


def confirmed_plan(
    profile: Profile, wish: Wish, *, gets_through: Callable[[Plan, int], bool]
) -> Plan:
    """Return the best plan whose run gets through under the budget.

    Args:
        profile: what to plan for.
        wish: what the plan is to be.
        gets_through: runs a plan's `ROUNDS` on a card of so many bytes.

    Raises:
        FindingError: if no plan fits, or none gets through though its bytes would fit.
    """
    plan = plan_as(profile, wish)
    slack_bytes = max(profile.gpu.slack_bytes, LEAST_SLACK_BYTES)
    capacities = wish.budget_bytes - profile.gpu.slack_bytes // _KEPT, wish.budget_bytes
    while not all(gets_through(plan, capacity) for capacity in capacities):
        slack_bytes *= 2
        try:
            plan = plan_as(profile, replace(wish, slack_bytes=slack_bytes))
        except DoesNotFitError:
            raise FindingError(_fragments(profile, plan)) from None
    return plan


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
        "it: the free memory is in pieces. Try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, "
        "a larger budget, or what lowers the peak (pipe.vae.enable_tiling(), a smaller size)."
    )
