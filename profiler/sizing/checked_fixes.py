"""Trials of fixes before they are reported: each finding's change is made to the scenario, which is then run.

The outcomes are kept with the profile (`Profile.trials`), and the findings choose by them: a fix that does not fit, or
saves no time, is replaced by the next one, or dropped.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.findings import findings
from profiler.findings.fixes import KEEP, runnable, seconds_of_call, trial_of
from profiler.libraries.modes import Mode
from profiler.record.trial import Trial
from profiler.record.verdict import FITS, TIGHT, verdict
from profiler.sizing.size import profile_model, profile_without_limit, verify_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from profiler.record.profile import Profile
    from profiler.sizing.runs import Report
    from profiler.sizing.scenario import Scenario

_MOST = 6  # fixes that are tried for one profile
_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"  # takes precedence if both variables are set


def with_checked_fixes(
    profile: Profile, scenario: Scenario, *, report: Report | None = None
) -> Profile:
    """Return the profile with a trial of every fix that its findings report and that a run can test.

    Args:
        profile: The profile of `scenario`.
        scenario: The scenario that ran.
        report: Called with each step as it begins.
    """
    for _ in range(_MOST):
        all_changes = (runnable(finding.changes) for finding in findings(profile))
        untried = (one for one in all_changes if one and trial_of(profile, one) is None)
        changes = next(untried, None)
        if changes is None:
            break
        trial = _trial(profile, scenario, changes, report)
        profile = replace(profile, trials=(*profile.trials, trial))
    return profile


def _trial(
    profile: Profile, scenario: Scenario, changes: dict[str, Any], report: Report | None
) -> Trial:
    try:
        if changes.get("mode") == "plan":
            return _of_plan(profile, scenario, changes, report)
        with _allocator(changes):
            found = profile_model(changed(scenario, changes), report=report)
    except ProfilerError:  # nothing fits, or the pipeline cannot run with the change
        return Trial(changes=changes, fits=False)
    return Trial(
        changes=changes,
        fits=verdict(found).answer in (FITS, TIGHT),
        device_bytes=found.totals.device_bytes,
        seconds=seconds_of_call(found),
    )


def _of_plan(
    profile: Profile, scenario: Scenario, changes: dict[str, Any], report: Report | None
) -> Trial:
    """Return the trial of the plan that the finding's line makes."""
    from profiler.planning.planner import plan_offload

    known = profile
    if not profile.complete or profile.mode not in ("resident", "model"):
        known = profile_without_limit(changed(scenario, {"mode": "model"}), report=report)
    plan = plan_offload(known, profile.gpu.capacity_bytes)
    turns = f"{' -> '.join(plan.sequence)} in turn" if plan.sequence else "nothing in turn"
    kept = f"{', '.join(plan.excluded)} stay, {turns}" if plan.excluded else turns
    return Trial(
        changes=changes,
        fits=verify_plan(plan, report=report).profile.complete,
        device_bytes=plan.predicted.device_bytes,
        seconds=plan.predicted.seconds or 0.0,
        kept=plan.excluded,
        told=kept,
    )


def changed(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """Return the scenario with changes, as findings name them."""
    mode = _mode(scenario.mode, changes)
    dtype = changes.get("dtype")
    if dtype is None:
        return replace(scenario, mode=mode)
    others = {
        name: one for name, one in scenario.dtypes.items() if one not in ("bfloat16", "float32")
    }
    return replace(scenario, mode=mode, dtype={**others, "default": dtype} if others else dtype)


def _mode(mode: Mode, changes: Mapping[str, Any]) -> Mode:
    name = changes.get("mode", mode.name)
    keep = tuple(
        one.removeprefix(KEEP) for one, on in changes.items() if one.startswith(KEEP) and on
    )
    placed = Mode(name=name, keep=keep)
    if name == mode.name:
        placed = replace(
            mode,
            stream=changes.get("stream", mode.stream),
            record_stream=changes.get("record_stream", mode.record_stream),
            keep=keep or mode.keep,
        )
    return replace(
        placed,
        vae_tiling=mode.vae_tiling or changes.get("vae_tiling", False),
        vae_slicing=mode.vae_slicing,
        layerwise_casting=mode.layerwise_casting,
    )


@contextmanager
def _allocator(changes: Mapping[str, Any]) -> Iterator[None]:
    """Set torch's allocator as `changes` say while the block runs."""
    before = os.environ.get(_VARIABLE)
    if changes.get("expandable_segments"):
        others = before or os.environ.get("PYTORCH_ALLOC_CONF")
        settings = "expandable_segments:True"
        os.environ[_VARIABLE] = f"{others},{settings}" if others else settings
    try:
        yield
    finally:
        if before is not None:
            os.environ[_VARIABLE] = before
        else:
            os.environ.pop(_VARIABLE, None)
