"""The upper bound of an assumption that decides memory: the call once more, and an error band wide enough for both.

A mixture of experts routes tokens by values that are not known. The profile assumes that they are spread evenly over
all experts, which is the least that the fullest expert can get; here the call runs again with all tokens at the same
experts, which is the most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from profiler.record.profile import Assumption, Profile
from profiler.tracing.tracer import trace
from profiler.units import format_bytes
from profiler.virtual.device import Device
from profiler.virtual.values import ROUTING


def widened(profile: Profile, gpu: Device, pipe: Any, call: Callable[[], Any]) -> Profile:
    """Return `profile` with the error band that both bounds of its assumptions need; unchanged if they need none.

    Args:
        profile: of `call` on `pipe`, on `gpu`.
        gpu: the GPU that it ran on; afterwards its assumptions are those of the profile.
        pipe: placed as for the profile.
        call: the call that was profiled.
    """
    assumed = gpu.values.assumed
    if not profile.complete or not any(asked == ROUTING for asked, _ in assumed):
        return profile
    before = assumed.copy()
    gpu.values.crowded = True
    tracing = trace(pipe)
    try:
        with tracing:
            call()
    except torch.cuda.OutOfMemoryError:
        pass  # the profile of the bound records it
    finally:
        gpu.values.crowded = False
        gpu.values.assumed = before
    return _with_bound(profile, tracing.profile)


def _with_bound(profile: Profile, bound: Profile) -> Profile:
    low_bytes = profile.totals.peak_allocated_bytes
    high_bytes = bound.totals.peak_allocated_bytes
    effect = f"with all tokens at the same experts the peak is {format_bytes(high_bytes)}"
    if not bound.complete:
        high_bytes = profile.gpu.capacity_bytes - profile.gpu.context_bytes
        effect = "with all tokens at the same experts it does not fit"
    return replace(
        profile,
        error_band=profile.error_band + max(0.0, high_bytes / low_bytes - 1),
        assumptions=tuple(
            replace(each, effect=effect) if _is_routing(each) else each
            for each in profile.assumptions
        ),
    )


def _is_routing(assumption: Assumption) -> bool:
    return assumption.what.startswith(f"{ROUTING}:")
