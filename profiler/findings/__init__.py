"""Findings about a recorded run, each with evidence from the record and a fix.

Only facts that the record proves are reported: a finding names the events and the bytes, and a line of code that
changes them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from profiler.findings import (
    capacity,
    causes,
    failures,
    gpu_state,
    offload,
    one_memory,
    placing,
    sharing,
    staying,
)
from profiler.findings.agreement import agreed
from profiler.findings.fixes import trial_of
from profiler.record.cache import once_per_profile
from profiler.record.finding import HINT, PROBLEM, WASTE, Finding
from profiler.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from profiler.record.profile import Profile

__all__ = ["HINT", "PROBLEM", "WASTE", "Finding", "findings", "findings_beside_plan"]


_FINDERS: tuple[Callable[[Profile], Iterable[Finding]], ...] = (
    capacity.room,
    capacity.fragmentation,
    capacity.held_for_stream,
    capacity.spilled,
    failures.out_of_memory,
    failures.ended_early,
    failures.left_cast,
    causes.gradients_kept,
    causes.bfloat16_without_hardware,
    causes.size_binned,
    causes.size_not_as_asked,
    sharing.shared_files,
    sharing.shared_exclusions,
    placing.on_card_before,
    placing.mode_changes,
    capacity.pinned,
    capacity.loading,
    gpu_state.slow_link,
    gpu_state.held_back,
    one_memory.moved_within,
)
_OF_MODEL_OFFLOAD: tuple[Callable[[Profile], Iterable[Finding]], ...] = (
    offload.ignored_exclusions,
    offload.excluded_travel,
    offload.idle_resident,
    offload.quantised_stays,
    placing.moved_by_hand,
    sharing.foreign_hooks,
    sharing.left_on_card,
)


@once_per_profile
def _found(profile: Profile) -> tuple[Finding, ...]:
    """Return all findings that the record proves, each by itself."""
    found = [finding for find in _FINDERS for finding in find(profile)]
    offloads = not profile.gpu.unified_memory  # else `one_memory` says all there is to say of it
    if profile.mode != "resident" and profile.complete and offloads:
        found += staying.could_stay(profile)
    if profile.mode == "model" and offloads:
        found += [finding for find in _OF_MODEL_OFFLOAD for finding in find(profile)]
    return tuple(_tried(profile, finding) for finding in found)


@once_per_profile
def findings(profile: Profile) -> tuple[Finding, ...]:
    """Return the findings that the record proves, most severe first; no two recommend fixes that exclude each other."""
    return agreed(_found(profile))


def findings_beside_plan(profile: Profile) -> tuple[Finding, ...]:
    """Return the findings to report beside a plan for the same pipeline, which decides all placements."""
    return agreed(_found(profile), with_plan=True)


def _tried(profile: Profile, finding: Finding) -> Finding:
    """Return the finding with the result of trying its fix."""
    trial = trial_of(profile, finding.changes)
    if trial is None or not trial.fits or (trial.told and trial.told in finding.detail):
        return finding
    seconds = f" and {format_seconds(trial.seconds)} a call" if trial.seconds else ""
    words = f"{trial.told}: " if trial.told else ""
    sentence = (
        f"Tried on the virtual GPU: {words}{format_bytes(trial.device_bytes)} on the GPU{seconds}."
    )
    return dataclasses.replace(finding, detail=f"{finding.detail} {sentence}")
