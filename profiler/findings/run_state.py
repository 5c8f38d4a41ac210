"""Settings that a run had in effect already, so that no finding recommends them, and features its GPU lacks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from profiler.record import settings

if TYPE_CHECKING:
    from profiler.record.profile import Profile

# The first that is set counts; the one of HIP is recorded under ROCm alone.
_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_BFLOAT16_FROM = (8, 0)
"""The least compute capability with tensor cores and fused attention for bfloat16: Ampere's. Source: the tables of
arithmetic throughput in NVIDIA's CUDA C++ Programming Guide."""


def tiles(profile: Profile, component: str) -> bool:
    """Tell whether a component worked in tiles."""
    return any(
        one.what == settings.VAE_TILING and one.component == component for one in profile.settings
    )


def records_stream(profile: Profile) -> bool:
    """Tell whether some component was offloaded in groups on a stream with `record_stream`."""
    return any(
        one.what == settings.GROUP_OFFLOAD and one.value.get("record_stream")
        for one in profile.settings
    )


def expandable_segments(profile: Profile) -> bool:
    """Tell whether torch's allocator had expandable segments enabled."""
    given = [one.value for one in profile.settings if one.what == settings.ENVIRONMENT]
    text = next((values[name] for values in given for name in _VARIABLES if name in values), "")
    return re.search(r"expandable_segments\s*:\s*true", text, re.IGNORECASE) is not None


def lacks_bfloat16(profile: Profile) -> bool:
    """Tell whether components that compute in bfloat16 ran on a GPU that has no hardware for it."""
    found = re.fullmatch(r"sm_(\d+)(\d)", profile.gpu.architecture)
    if found is None or (int(found[1]), int(found[2])) >= _BFLOAT16_FROM:
        return False
    ran = {event.component for event in profile.events if event.kind == "enter"}
    return any(part.dtype == "bfloat16" and part.name in ran for part in profile.components)
