"""The arithmetic of a promise: the terms added to a peak, and the peak of a run instead of the computed one."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from profiler.planning.plan import Margin

if TYPE_CHECKING:
    from profiler.planning.plan import Alternative, Plan, Predicted
    from profiler.record.profile import Profile


def band_of(profile: Profile) -> Fraction:
    """Return the error band as the exact decimal that is written, such as 0.1, so that margins add up to the byte."""
    return Fraction(str(profile.error_band))


def margin_of(
    profile: Profile, peak_bytes: int, *, slack_bytes: int, budget_bytes: int, host_bytes: int = 0
) -> Margin:
    """Return the budget that a peak needs on the profile's GPU.

    Args:
        profile: The profile with the GPU and the error band.
        peak_bytes: The highest bytes allocated on the GPU.
        slack_bytes: Allowance for fragmentation.
        budget_bytes: The budget.
        host_bytes: Host memory that shares the budget.
    """
    context_bytes = profile.gpu.context_bytes
    band_bytes = math.ceil(peak_bytes * band_of(profile))
    return Margin(
        context_bytes=context_bytes,
        peak_allocated_bytes=peak_bytes,
        slack_bytes=slack_bytes,
        error_band_bytes=band_bytes,
        device_bytes=context_bytes + peak_bytes + slack_bytes + band_bytes + host_bytes,
        budget_bytes=budget_bytes,
        host_bytes=host_bytes,
    )


def promised(profile: Profile, plan: Plan, peak_bytes: int) -> Plan:
    """Return the plan with the peak of its run instead of the one from the search, which ignores fragmentation.

    If the run needed more than was computed, the slack is reduced as far as the budget demands.
    """
    margin = margin_of(
        profile,
        peak_bytes,
        slack_bytes=plan.margin.slack_bytes,
        budget_bytes=plan.budget_bytes,
        host_bytes=plan.margin.host_bytes,
    )
    slack_bytes = margin.slack_bytes + min(margin.left_bytes, 0)
    margin = margin_of(
        profile,
        peak_bytes,
        slack_bytes=slack_bytes,
        budget_bytes=plan.budget_bytes,
        host_bytes=plan.margin.host_bytes,
    )

    def run(predicted: Predicted) -> Predicted:
        return replace(predicted, peak_allocated_bytes=peak_bytes, device_bytes=margin.device_bytes)

    def same(one: Alternative) -> Alternative:
        placed = (one.sequence, one.excluded, one.sticky, one.inside, one.swaps)
        if placed != (plan.sequence, plan.excluded, plan.sticky, plan.inside, plan.swaps):
            return one
        return replace(one, predicted=run(one.predicted))

    return replace(
        plan,
        predicted=run(plan.predicted),
        margin=margin,
        front=tuple(same(one) for one in plan.front),
        stock=same(plan.stock),
        smallest=replace(plan.smallest, plan=same(plan.smallest.plan)),
    )
