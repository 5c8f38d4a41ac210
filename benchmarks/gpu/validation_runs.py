"""One case on the virtual GPU, and the same case on the GPU: what each says, in the same words.

Both go through one function, `_traced`. The measurement runs in a process of its own, so that context, workspaces and
fragments are those of a user's script. Weights are random; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from at_hand import call_of, reserving_at_most
from validation_cases import PLAN, STEPS, Case

from profiler.applying import apply
from profiler.calibrating.machine import beside_allocator_bytes
from profiler.errors import ProfilerError
from profiler.gpus import nvml
from profiler.libraries.placing import enable_mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.planning import Plan, plan_offload
from profiler.record.readings import calls, direction, phases
from profiler.sizing.size import plan_model
from profiler.tracing import trace
from profiler.units import TIB
from profiler.virtual import VirtualGPU
from profiler.virtual.torch_api.functions import active_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.gpus.hardware import GpuSpec
    from profiler.record.profile import Profile

CALLS = 2  # the first loads kernels and sets up workspaces; the second is what a call takes from then on
_SAMPLE_SECONDS = 0.01


class Prediction(NamedTuple):
    """What the virtual GPU says of a case."""

    figures: dict[str, Any]
    plan: Plan | None  # of a plan case


def predict(case: Case, spec: GpuSpec) -> Prediction:
    """Return the figures of a case on `spec` and what they promise, with the plan where the case is one."""
    profile = _on_virtual_gpu(case, spec.with_capacity(TIB))
    if not profile.complete:
        return Prediction({"complete": False, "error": profile.error}, None)
    plan = None
    if case.mode == PLAN:
        plan = _plan(profile)
        profile = _on_virtual_gpu(case, spec, plan)
    figures = _figures(profile)
    promised_bytes = int(figures["device_bytes"] * (1 + profile.error_band))
    figures |= {
        "context_bytes": spec.context_bytes,
        "promised_device_bytes": promised_bytes if plan is None else plan.budget_bytes,
        "weight_bytes": sum(part.bytes for part in profile.components),
    }
    return Prediction(figures, plan)


def _on_virtual_gpu(case: Case, spec: GpuSpec, plan: Plan | None = None) -> Profile:
    with VirtualGPU(spec), quiet():
        return _traced(load_pipeline(case.model), case, plan=plan)


def _plan(profile: Profile) -> Plan:
    """Return the best plan under a budget half-way from the least that a plan needs to everything on the GPU."""
    least_bytes = plan_offload(profile, TIB).smallest_budget_bytes
    weights = [part.allocated_bytes for part in profile.components]
    return plan_model(profile, least_bytes + (sum(weights) - max(weights)) // 2)


def measure(case: Case, prediction: Prediction, stand_in: GpuSpec | None = None) -> dict[str, Any]:
    """Return what a case takes on the GPU at hand, and whether it runs within what was promised.

    Args:
        case: what to run.
        prediction: what `predict` returned.
        stand_in: a dry run's virtual GPU; None for the real one.
    """
    before_bytes = 0 if stand_in is not None else nvml.used_bytes() or 0
    pipe = load_pipeline(case.model, weights="random")
    if stand_in is None:
        return _measured(pipe, case, prediction, before_bytes)
    with VirtualGPU(stand_in) as gpu, quiet():
        return _measured(gpu.lend(pipe), case, prediction, before_bytes)


def _measured(pipe: Any, case: Case, prediction: Prediction, before_bytes: int) -> dict[str, Any]:
    torch.zeros(1, device="cuda")
    bare_bytes = beside_allocator_bytes(before_bytes)
    with _sampled(before_bytes) as samples:
        start = time.perf_counter()
        profile = _traced(pipe, case, plan=prediction.plan)
    found = {
        **_figures(profile),
        "context_bytes": beside_allocator_bytes(before_bytes),
        "bare_context_bytes": bare_bytes,
        "device_bytes_before": before_bytes,
        "device_bytes_by_phase": _by_phase(profile, samples, start),
    }
    if samples:
        found["device_bytes"] = max(used for _, used in samples)
    if profile.complete and "promised_device_bytes" in prediction.figures:
        found["held"] = _holds(pipe, case, prediction.figures)
    return found


def _traced(pipe: Any, case: Case, *, plan: Plan | None) -> Profile:
    """Return the profile of `CALLS` calls, the placement included."""
    arguments = call_of(pipe, {"num_inference_steps": STEPS, **case.call})
    pipe.set_progress_bar_config(disable=True)
    tracing = trace(
        pipe, label={"model": case.model, "call": {"num_inference_steps": STEPS, **case.call}}
    )
    try:
        with tracing:
            if plan is None:
                enable_mode(pipe, case.placement)
            else:
                apply(plan, pipe)
            for _ in range(CALLS):
                pipe(**arguments)
    except (RuntimeError, ProfilerError):  # out of memory included; the profile up to there says so
        return tracing.profile
    return tracing.profile


def _holds(pipe: Any, case: Case, promised: dict[str, Any]) -> dict[str, Any]:
    """Return whether one more call gets through when the allocator may reserve no more than was promised."""
    arguments = call_of(pipe, {"num_inference_steps": STEPS, **case.call})
    allowed_bytes = promised["promised_device_bytes"] - promised["context_bytes"]
    try:
        with reserving_at_most(allowed_bytes):
            pipe(**arguments)
    except torch.cuda.OutOfMemoryError as error:
        return {"allowed_reserved_bytes": allowed_bytes, "fits": False, "error": str(error)}
    return {"allowed_reserved_bytes": allowed_bytes, "fits": True}


def _figures(profile: Profile) -> dict[str, Any]:
    """Return the figures of a profile that a prediction and a measurement are compared by."""
    moves = [
        (event.call, event.kind, event.component, event.group, event.bytes)
        for event in profile.events
        if event.kind in ("onload", "offload") and direction(event)
    ]
    seconds = [tally.seconds for call, tally in calls(profile) if call >= 0]
    return {
        **profile.totals.__dict__,
        "complete": profile.complete,
        "error": profile.error,
        "error_band": profile.error_band,
        "phases": {name: tally._asdict() for name, tally in phases(profile)},
        "call_seconds": seconds,
        "steady_seconds": seconds[-1] if seconds else None,
        "moves": len(moves),
        "moves_sha256": hashlib.sha256(json.dumps(moves).encode()).hexdigest(),
    }


@contextmanager
def _sampled(before_bytes: int) -> Iterator[list[tuple[float, int]]]:
    """Yield a list that fills with (time, bytes that the driver shows as used by this process).

    It stays empty on a virtual GPU, which answers on its own thread only.
    """
    samples: list[tuple[float, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            free, total = torch.cuda.mem_get_info()
            samples.append((time.perf_counter(), total - free - before_bytes))

    watcher = threading.Thread(target=watch)
    if active_gpu() is None:
        watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        if active_gpu() is None:
            watcher.join()


def _by_phase(profile: Profile, samples: list[tuple[float, int]], start: float) -> dict[str, int]:
    """Return the highest sample of each phase; a phase shorter than the sampling may have none."""
    found: dict[str, int] = {}
    for event in profile.events:
        began, ended = event.start_seconds, event.start_seconds + event.seconds
        inside = [used for at, used in samples if began <= at - start <= ended]
        if inside:
            found[event.phase] = max(found.get(event.phase, 0), *inside)
    return found
