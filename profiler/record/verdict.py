"""The verdict on whether a recorded run fits its GPU, with the arithmetic.

The bytes that have to fit are `device_bytes`, that is context + reserved, plus the error band of a prediction. Where
host and GPU share one memory they are all that both hold at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from profiler.record.profile import Profile

FITS = "fits"
TIGHT = "tight"  # fits as predicted, but not with the error band on top
DOES_NOT_FIT = "does not fit"
UNKNOWN = "unknown"  # the run ended early for another reason than memory


class Verdict(NamedTuple):
    """The answer, and `needed + spare = capacity` behind it."""

    answer: str  # one of the four above
    needed_bytes: int  # context + reserved + error band, and the host's where it shares the memory
    band_bytes: int  # the error band in `needed_bytes`; 0 for measured
    spare_bytes: int  # capacity - needed; negative if it does not fit


def verdict(profile: Profile) -> Verdict:
    """Return whether the run fits its GPU, with the arithmetic."""
    band_bytes = math.ceil(profile.error_band * profile.totals.peak_allocated_bytes)
    shared_bytes = profile.totals.shared_peak_bytes
    held_bytes = profile.totals.device_bytes if shared_bytes is None else shared_bytes
    needed_bytes = held_bytes + band_bytes
    spare_bytes = profile.gpu.capacity_bytes - needed_bytes
    return Verdict(_answer(profile, spare_bytes, band_bytes), needed_bytes, band_bytes, spare_bytes)


def _answer(profile: Profile, spare_bytes: int, band_bytes: int) -> str:
    if not profile.complete:
        return (
            DOES_NOT_FIT if ran_out_of_memory(profile) or spare_bytes + band_bytes < 0 else UNKNOWN
        )
    if spare_bytes >= 0:
        return FITS
    return TIGHT if spare_bytes + band_bytes >= 0 else DOES_NOT_FIT


def ran_out_of_memory(profile: Profile) -> bool:
    """Tell whether the run ended because the GPU was full, by the text of torch's error."""
    return not profile.complete and "out of memory" in profile.error.lower()
