"""Findings about capacity: runs that do not fit, and pinned RAM beyond the weights in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.allocator.pinned import round_pinned
from profiler.findings import fixes
from profiler.findings.run_state import records_stream
from profiler.record import moments
from profiler.record import verdict as verdicts
from profiler.record.finding import HINT, PROBLEM, WASTE, Finding
from profiler.units import format_bytes, format_fraction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile


def room(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a complete run does not fit its GPU, or may not."""
    verdict = verdicts.verdict(profile)
    capacity = format_bytes(profile.gpu.capacity_bytes)
    short = -verdict.spare_bytes
    if profile.complete and verdict.answer == verdicts.DOES_NOT_FIT:
        title = f"Does not fit {capacity}: {format_bytes(short)} too much"
        yield _at_peak(profile, "does_not_fit", title, _arithmetic(profile), short)
    elif profile.complete and verdict.answer == verdicts.TIGHT:
        title = (
            f"Fits {capacity}, but not with the error band of {format_fraction(profile.error_band)}"
        )
        yield _at_peak(profile, "tight", title, _arithmetic(profile), short)


def _at_peak(profile: Profile, kind: str, title: str, detail: str, at_stake_bytes: int) -> Finding:
    moment = moments.peak_moment(profile)
    fix = _lower_peak(profile)
    return Finding(
        kind=kind,
        severity=PROBLEM,
        title=title,
        detail=detail,
        fix=fix.line,
        changes=fix.changes,
        bytes=at_stake_bytes,
        components=(moment.component,) if moment and moment.component else (),
        events=(moment.ordinal,) if moment else (),
    )


def _lower_peak(profile: Profile) -> fixes.Fix:
    moment = moments.peak_moment(profile)
    return (
        fixes.lower_peak(profile, moment.doing, moment.component)
        if moment
        else fixes.smaller(profile)
    )


def _arithmetic(profile: Profile) -> str:
    verdict = verdicts.verdict(profile)
    parts = [f"context {format_bytes(profile.gpu.context_bytes)}"]
    parts.append(
        f"reserved {format_bytes(profile.totals.device_bytes - profile.gpu.context_bytes)}"
    )
    shared_bytes = profile.totals.shared_peak_bytes
    if shared_bytes is not None:
        parts = [f"context, reserved and host memory at once {format_bytes(shared_bytes)}"]
    if verdict.band_bytes:
        parts.append(f"error band {format_bytes(verdict.band_bytes)}")
    return f"{' + '.join(parts)} = {format_bytes(verdict.needed_bytes)}."


def fragmentation(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if only the memory reserved beyond the allocated keeps a run from fitting."""
    verdict = verdicts.verdict(profile)
    unused = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
    if not profile.complete or verdict.spare_bytes >= 0 or verdict.spare_bytes + unused < 0:
        return
    if records_stream(profile):  # which has its own finding
        return
    fix = fixes.in_pieces(profile) or _lower_peak(profile)
    yield Finding(
        kind="reserved_beyond_allocated",
        severity=WASTE,
        title=f"{format_bytes(unused)} were reserved and never allocated at once: without them it would fit",
        detail="What PyTorch reserves depends on the order in which blocks of different sizes came and went."
        + (" Expandable segments leave fewer pieces." if fix is fixes.EXPANDABLE else ""),
        fix=fix.line,
        changes=fix.changes,
        bytes=unused,
    )


def held_for_stream(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if far more was reserved than allocated because of `record_stream`."""
    unused = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
    fix = fixes.in_pieces(profile)
    if not records_stream(profile) or fix is None:
        return
    verdict = verdicts.verdict(profile)
    fits = verdict.answer == verdicts.FITS
    if 2 * unused < profile.totals.peak_allocated_bytes and (
        fits or verdict.spare_bytes + unused < 0
    ):
        return
    yield Finding(
        kind="record_stream_reserves",
        severity=HINT if fits else WASTE,
        title=f"record_stream kept {format_bytes(unused)} reserved that were not allocated",
        detail="What is freed while the copy stream still uses it is held back until that stream has passed, and the "
        "weights that come next take new memory. Expandable segments do not change that. Without record_stream "
        "the host waits for the copies in place of the memory.",
        fix=fix.line,
        changes=fix.changes,
        bytes=unused,
    )


def spilled(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if torch reserved more memory than the GPU has: the driver used system memory instead."""
    excess = profile.totals.peak_reserved_bytes - profile.gpu.capacity_bytes
    if profile.source != "measured" or excess <= 0:
        return
    yield Finding(
        kind="spilled_to_ram",
        severity=PROBLEM,
        title=f"{format_bytes(excess)} more were reserved than the GPU has: the rest was system memory",
        detail="On Windows the driver lends system memory in place of failing, at the speed of the PCIe link. It "
        'is the setting "CUDA - Sysmem Fallback Policy" of the NVIDIA control panel.',
        fix="torch.cuda.set_per_process_memory_fraction(0.95)  # fails in place of spilling",
        changes={"memory_fraction": 0.95},
        bytes=excess,
    )


def loading(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if loading the weights takes over one and a half times the host memory of the run."""
    loading = profile.totals.loading_host_peak_bytes or 0
    shared_bytes = profile.totals.shared_peak_bytes
    running = profile.totals.host_peak_bytes if shared_bytes is None else shared_bytes
    if not profile.complete or 2 * loading <= 3 * running:
        return
    yield Finding(
        kind="loading_needs_more",
        severity=HINT,
        title=f"Loading takes {format_bytes(loading)} of RAM, running {format_bytes(running)}",
        detail="Weights that are cast while they are loaded are there twice, and transformers maps all files of a "
        "component at once.",
        fix="load and place one component after the other, and save the pipeline in the dtype that you load",
        changes={},
        bytes=loading - running,
    )


def pinned(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if pinned host memory exceeds the weights in it by more than a quarter."""
    weights = sum(part.bytes for part in profile.components)
    rounded = sum(round_pinned(t.numel * t.itemsize) for p in profile.components for t in p.tensors)
    pinned = min(profile.totals.host_pinned_bytes, rounded)
    if pinned <= weights * 5 // 4:
        return
    yield Finding(
        kind="pinned_rounding",
        severity=WASTE,
        title=f"{format_bytes(pinned)} of pinned RAM hold {format_bytes(weights)} of weights",
        detail="PyTorch rounds every pinned block up to a power of two, and group offload with a stream pins "
        "all weights.",
        fix="low_cpu_mem_usage=True pins one group at a time; use_stream=False pins nothing",
        changes={"mode": profile.mode, "low_cpu_mem": True},
        bytes=pinned - weights,
        gives_way=True,
    )
