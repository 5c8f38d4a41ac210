"""The figures of a profile as plain JSON data, as `vram profile --json` prints them and scripts read them.

Keys are stable: new ones may be added, but none changes its meaning without a new `schema_version`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from profiler.findings import findings
from profiler.record import moments
from profiler.record import readings as reading
from profiler.record.profile import SCHEMA_VERSION
from profiler.record.verdict import ran_out_of_memory, verdict

if TYPE_CHECKING:
    from profiler.findings import Finding
    from profiler.record.components import Component
    from profiler.record.profile import Failure, GpuState, Profile
    from profiler.record.verdict import Verdict


def summary(profile: Profile) -> dict[str, Any]:
    """Return the summary: totals at the top level, then components, phases, steps, `bill`, assumptions, findings."""
    answer = verdict(profile)
    return {
        "schema_version": SCHEMA_VERSION,
        "source": profile.source,
        "complete": profile.complete,
        "error": profile.error,
        "model": profile.model,
        "pipeline_class": profile.pipeline_class,
        "mode": profile.mode,
        "dtype": profile.dtype,
        "dtypes": profile.dtypes,
        "quantization": profile.quantization,
        "settings": [dataclasses.asdict(one) for one in profile.settings],
        "call": profile.call,
        "call_defaults": list(profile.call_defaults),
        "signatures": [dataclasses.asdict(one) for one in profile.signatures],
        "sequence": list(profile.sequence),
        "excluded": list(profile.excluded),
        "gpu": dataclasses.asdict(profile.gpu),
        "card_state": _gpu_state(profile.card_state),
        "fits": answer.answer,
        "spare_bytes": _spare_bytes(profile, answer),
        **dataclasses.asdict(profile.totals),
        "error_band": profile.error_band,
        "error_band_below": profile.error_band_below,
        "seconds_band": profile.seconds_band,
        "seconds_band_below": profile.seconds_band_below,
        "peak": _peak(profile),
        "components": [_component(part) for part in profile.components],
        "phases": [
            {"name": name, **_figures(profile, tally)} for name, tally in reading.phases(profile)
        ],
        "calls": [
            {"call": call, **_figures(profile, tally)}
            for call, tally in reading.calls(profile)
            if call >= 0
        ],
        "steps": [_step(profile, step) for step in reading.steps(profile)],
        "bill": [dataclasses.asdict(item) for item in profile.bill],
        "assumptions": [dataclasses.asdict(assumption) for assumption in profile.assumptions],
        "failure": _failure(profile.failure),
        "trials": [dataclasses.asdict(one) for one in profile.trials],
        "findings": [_finding(finding) for finding in findings(profile)],
        "versions": profile.versions,
    }


def _spare_bytes(profile: Profile, answer: Verdict) -> int | None:
    """Return the GPU's spare bytes; if the run ran out of memory, those of the whole call, or None if unknown."""
    if not ran_out_of_memory(profile):
        return answer.spare_bytes
    whole = profile.failure.whole if profile.failure is not None else None
    return None if whole is None else profile.gpu.capacity_bytes - whole.device_bytes


def _peak(profile: Profile) -> dict[str, Any] | None:
    moment = moments.peak_moment(profile)
    return moment._asdict() if moment else None


def _gpu_state(state: GpuState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {**dataclasses.asdict(state), "held_back_by": list(state.held_back_by)}


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    """Return the end of the run, the holders of memory then, and `whole`: the size of the call, and a GPU for it."""
    return None if failure is None else dataclasses.asdict(failure)


def _component(part: Component) -> dict[str, Any]:
    return {
        "name": part.name,
        "class": part.class_name,
        "dtype": part.dtype,
        "parameters": part.parameters,
        "bytes": part.bytes,
        "allocated_bytes": part.allocated_bytes,
        "quantization": part.quantization,
    }


def _step(profile: Profile, step: reading.Step) -> dict[str, Any]:
    return {
        "call": step.call,
        "step": step.step,
        **_figures(profile, step.tally),
        "resident": list(step.resident),
    }


def _figures(profile: Profile, tally: reading.Tally) -> dict[str, Any]:
    figures = {name: value for name, value in tally._asdict().items() if name != "start_seconds"}
    if profile.source == "measured":  # torch does not report how busy the link was
        figures |= {"transfer_seconds": None, "exposed_transfer_seconds": None}
    return figures


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(finding).items()
    }
