"""Findings about room: what does not fit, and what pins more RAM than it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import record_moments as moments
from profiler import verdict as verdicts
from profiler.findings.finding import PROBLEM, WASTE, Finding
from profiler.units import format_bytes, format_fraction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.profile import Profile


def room(profile: Profile) -> Iterator[Finding]:
    """Yield a finding where the run does not fit its card for sure."""
    verdict = verdicts.verdict(profile)
    capacity = format_bytes(profile.gpu.capacity_bytes)
    short = -verdict.spare_bytes
    if verdicts.ran_out_of_memory(profile):
        yield _at_peak(
            profile, "out_of_memory", f"Out of memory on a card of {capacity}", profile.error
        )
    elif profile.complete and verdict.answer == verdicts.DOES_NOT_FIT:
        title = f"Does not fit {capacity}: {format_bytes(short)} too much"
        yield _at_peak(profile, "does_not_fit", title, _arithmetic(profile), short)
    elif profile.complete and verdict.answer == verdicts.TIGHT:
        title = (
            f"Fits {capacity}, but not with the error band of {format_fraction(profile.error_band)}"
        )
        yield _at_peak(profile, "tight", title, _arithmetic(profile), short)


def _at_peak(
    profile: Profile, kind: str, title: str, detail: str, at_stake_bytes: int = 0
) -> Finding:
    moment = moments.peak_moment(profile)
    return Finding(
        kind=kind,
        severity=PROBLEM,
        title=title,
        detail=detail,
        fix=_less_memory(profile, moment),
        bytes=at_stake_bytes,
        components=(moment.component,) if moment and moment.component else (),
        events=(moment.ordinal,) if moment else (),
    )


def _arithmetic(profile: Profile) -> str:
    verdict = verdicts.verdict(profile)
    parts = [f"context {format_bytes(profile.gpu.context_bytes)}"]
    parts.append(
        f"reserved {format_bytes(profile.totals.device_bytes - profile.gpu.context_bytes)}"
    )
    if verdict.band_bytes:
        parts.append(f"error band {format_bytes(verdict.band_bytes)}")
    return f"{' + '.join(parts)} = {format_bytes(verdict.needed_bytes)}."


def _less_memory(profile: Profile, moment: moments.Moment | None) -> str:
    """Return the next thing to try, by what the run did already and where it was fullest."""
    if profile.mode == "resident":
        return "pipe.enable_model_cpu_offload()"
    if moment and moment.doing == "decode" and moment.component:
        return f"pipe.{moment.component}.enable_tiling()"
    if profile.mode == "model":
        return 'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")'
    if profile.mode == "group-block":
        return 'pipe.enable_group_offload(..., offload_type="leaf_level")'
    return "a smaller height, width or batch: this mode already holds the fewest weights"


def pinned(profile: Profile) -> Iterator[Finding]:
    """Yield a finding where pinned host memory is far more than the weights in it (a quarter or more)."""
    pinned = profile.totals.host_pinned_bytes
    weights = sum(part.bytes for part in profile.components)
    if pinned <= weights * 5 // 4:
        return
    yield Finding(
        kind="pinned_rounding",
        severity=WASTE,
        title=f"{format_bytes(pinned)} of pinned RAM hold {format_bytes(weights)} of weights",
        detail="PyTorch rounds every pinned block up to a power of two, and group offload with a stream pins "
        "all weights.",
        fix="low_cpu_mem_usage=True pins one group at a time; use_stream=False pins nothing",
        bytes=pinned - weights,
    )
