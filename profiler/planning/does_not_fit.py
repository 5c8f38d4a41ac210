"""The message if no plan fits: by how much, what decides it, and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.errors import FindingError
from profiler.placements.placement import DISK, LEVERS
from profiler.record.settings import VAE_TILING
from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.planning.plan import Smallest
    from profiler.planning.wish import Wish
    from profiler.record.profile import Profile

_FEW = 10  # weights below one part in ten of the other bytes do not decide


class DoesNotFitError(FindingError):
    """No plan fits the budget; `smallest` is the one that comes closest."""

    def __init__(self, message: str, smallest: Smallest, missing_bytes: int) -> None:
        super().__init__(message)
        self.smallest = smallest
        self.missing_bytes = missing_bytes


def message(profile: Profile, smallest: Smallest, wish: Wish) -> str:
    """Return the message as one paragraph."""
    missing = smallest.budget_bytes - wish.budget_bytes
    component = smallest.component or "the pipeline"
    beside = (
        "" if wish.ram_bytes is None else f" with {format_bytes(wish.ram_bytes)} of host memory"
    )
    if profile.gpu.unified_memory:
        beside = " of memory that host and GPU share"
    return (
        f"{profile.pipeline_class} does not fit {format_bytes(wish.budget_bytes)}{beside} under any plan: "
        f"{format_bytes(missing)} are missing, the smallest budget is {format_bytes(smallest.budget_bytes)}. "
        f"It is decided by {component} ({smallest.moment}): {format_bytes(smallest.weight_bytes)} of weights "
        f"and {format_bytes(smallest.other_bytes)} of activations. Try {', '.join(remedies(profile, smallest, wish))}."
    )


def remedies(profile: Profile, smallest: Smallest, wish: Wish) -> list[str]:
    """Return changes that would lower the decisive peak, most promising first."""
    weights = []
    if wish.ram_bytes is not None:
        weights.append("more host memory, or the lever disk")
    if profile.gpu.unified_memory:
        weights += [] if DISK in wish.levers else [f"the lever {DISK}"]
    elif len(wish.levers) < len(LEVERS):
        weights.append(f"all levers ({', '.join(LEVERS)})")
    weights.append(f"a quantised {_heaviest(profile, smallest)}")
    if _FEW * smallest.weight_bytes < smallest.other_bytes:
        weights = []
    if profile.dtype == "float32":
        weights.insert(0, "dtype float16 or bfloat16")
    activations = ["a smaller height and width, fewer frames or a smaller batch"]
    tiles = any(one.what == VAE_TILING for one in profile.settings)
    if (smallest.component, smallest.moment) == ("vae", "decode") and not tiles:
        activations.insert(0, "pipe.vae.enable_tiling()")
    if smallest.other_bytes > smallest.weight_bytes:
        return activations + weights
    return weights + activations


def _heaviest(profile: Profile, smallest: Smallest) -> str:
    """Return the component to quantise: the one that runs at that peak, unless others hold most of the weights."""
    sizes = {part.name: part.bytes for part in profile.components}
    if 2 * sizes.get(smallest.component, 0) >= smallest.weight_bytes:
        return smallest.component
    return max(sizes, key=lambda name: sizes[name], default="component")
