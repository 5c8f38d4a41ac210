"""What to say when no plan fits: by how much, what decides it, and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.planning.plan import Smallest
    from profiler.profile import Profile


def message(profile: Profile, smallest: Smallest, budget_bytes: int) -> str:
    """Return the finding in one paragraph."""
    missing = smallest.budget_bytes - budget_bytes
    component = smallest.component or "the pipeline"
    return (
        f"{profile.pipeline_class} does not fit {format_bytes(budget_bytes)} under any plan of model offload: "
        f"{format_bytes(missing)} are missing, the smallest budget is {format_bytes(smallest.budget_bytes)}. "
        f"It is decided by {component} ({smallest.moment}): {format_bytes(smallest.weight_bytes)} of weights "
        f"and {format_bytes(smallest.other_bytes)} of activations. Try {', '.join(remedies(profile, smallest))}."
    )


def remedies(profile: Profile, smallest: Smallest) -> list[str]:
    """Return what would lower the peak that decides, most promising first."""
    weights = [
        f"group offload of {smallest.component or 'the largest component'} (pipe.enable_group_offload)",
        "pipe.enable_sequential_cpu_offload()",
    ]
    if profile.dtype == "float32":
        weights.insert(0, "dtype float16 or bfloat16")
    activations = ["a smaller height and width, fewer frames or a smaller batch"]
    if smallest.moment == "decode":
        activations.insert(0, "pipe.vae.enable_tiling()")
    if smallest.other_bytes > smallest.weight_bytes:
        return activations + weights
    return weights + activations
