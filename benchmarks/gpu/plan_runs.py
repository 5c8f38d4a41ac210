"""One way to keep within a budget, predicted and run: seconds of the first call and of later ones, peak, and bytes."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import above  # noqa: F401  # `presets` is up there
import presets
import torch
from at_hand import call_of, pipeline_at_hand, reserving_at_most
from plan_cases import MANAGER, MMGP, OURS, PRESETS, RESIDENT, Case

from profiler.applying import apply
from profiler.applying.hooks.grouped import options_of
from profiler.errors import FindingError, ProfilerError
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.placements.scheme import Scheme
from profiler.planning import Plan, weigh
from profiler.sizing.size import plan_model
from profiler.tracing import trace

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec
    from profiler.planning.plan import Predicted
    from profiler.record.profile import Profile

STEADY_CALLS = 2  # whose median is quoted, after a first one
_DEFAULT_RESERVE_BYTES = 3 * 10**9  # of ComponentsManager: its `memory_reserve_margin` of "3GB"


class Promise(NamedTuple):
    """What is predicted of a case, and our plan where the case is that."""

    figures: dict[str, Any] | None
    plan: Plan | None = None
    record: dict[str, Any] | None = None  # the plan as plain data
    why_none: str = ""


def promises(profile: Profile) -> dict[str, dict[str, Any] | None]:
    """Return what is predicted of each preset; None where a replay cannot follow, or diffusers fails."""
    names = [part.name for part in profile.components]
    schemes = {
        **{way: scheme for way, scheme in presets.presets(profile).items() if way in PRESETS},
        RESIDENT: Scheme((), frozenset(names)),
    }
    weighed = weigh(profile, schemes.values())
    return {
        way: None if one is None else figures(one)
        for way, one in zip(schemes, weighed, strict=True)
    }


def promise_of_ours(profile: Profile, budget_bytes: int, ram_bytes: int | None) -> Promise:
    """Return our plan under a budget, and what is predicted of it."""
    try:
        plan = plan_model(profile, budget_bytes, ram_bytes=ram_bytes)
    except FindingError as error:
        return Promise(None, why_none=str(error))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.save(path)
        record = json.loads(path.read_text(encoding="utf-8"))
    return Promise(figures(plan.predicted), plan, record)


def promise_of_recorded(profile: Profile, record: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is predicted today of a plan that was kept."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        (predicted,) = weigh(profile, [Plan.load(path).scheme])
    return None if predicted is None else figures(predicted)


def figures(predicted: Predicted) -> dict[str, Any]:
    """Return the figures that are measured as well."""
    return {
        "device_bytes": predicted.device_bytes,
        "steady_seconds": predicted.seconds,
        "weight_bytes": predicted.h2d_weight_bytes + predicted.d2h_weight_bytes,
    }


def why_skipped(case: Case, stand_in: GpuSpec | None) -> str:
    """Return why a case cannot be run here; "" where it can."""
    if case.way not in MMGP:
        return ""
    if stand_in is not None:
        return "mmgp asks the driver, which a virtual GPU has not"
    return "" if importlib.util.find_spec("mmgp") else "mmgp is not installed (pip install mmgp)"


def run(
    case: Case, plan: Plan | None, context_bytes: int, stand_in: GpuSpec | None
) -> dict[str, Any]:
    """Return what a case takes with the allocator held to its budget, and whether it gets through.

    Args:
        case: what to run.
        plan: our plan, where the case is that.
        context_bytes: what the budget covers beside the allocator.
        stand_in: a dry run's virtual GPU; None for the real one.
    """
    if told := why_skipped(case, stand_in):
        return {"skipped": told}
    with pipeline_at_hand(case.model, stand_in) as pipe:
        arguments = call_of(pipe, case.call)
        torch.zeros(1, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        with reserving_at_most(case.budget_bytes - context_bytes):
            try:
                measured = _measured(pipe, case, arguments, plan)
            except (RuntimeError, ValueError, ProfilerError) as error:
                measured = {"fits": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        measured = _peaks() | measured
    return {
        "measured": measured | {"device_bytes": measured["peak_reserved_bytes"] + context_bytes}
    }


def _peaks() -> dict[str, Any]:
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def _measured(
    pipe: Any, case: Case, arguments: dict[str, Any], plan: Plan | None
) -> dict[str, Any]:
    began = time.perf_counter()
    _place(pipe, case, plan)
    placed = time.perf_counter()
    seconds = [_seconds(pipe, arguments) for _ in range(1 + STEADY_CALLS)]
    peaks = _peaks()  # which start anew after a trace
    with trace(pipe) as tracing:
        pipe(**arguments)
    totals = tracing.profile.totals
    return {
        "fits": True,
        **peaks,
        "placing_seconds": placed - began,
        "cold_seconds": seconds[0],
        "steady_seconds": sorted(seconds[1:])[STEADY_CALLS // 2],
        "h2d_bytes": totals.h2d_bytes,
        "d2h_bytes": totals.d2h_bytes,
        "weight_bytes": totals.h2d_weight_bytes + totals.d2h_weight_bytes,
        "host_pinned_bytes": totals.host_pinned_bytes,
    }


def _seconds(pipe: Any, arguments: dict[str, Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    pipe(**arguments)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _place(pipe: Any, case: Case, plan: Plan | None) -> None:
    """Place a pipeline in a case's way, by diffusers' own calls, ours, or another library's."""
    plain = {RESIDENT: "resident", "model offload": "model", "sequential offload": "sequential"}
    if case.way == OURS:
        assert plan is not None
        apply(plan, pipe)
    elif case.way in plain:
        enable_mode(pipe, Mode(name=plain[case.way]))
    elif case.way == MANAGER:
        # It asks the driver what is free, which a fraction does not change: what is over the budget is reserved.
        beyond_bytes = torch.cuda.get_device_properties(0).total_memory - case.budget_bytes
        reserve_bytes = _DEFAULT_RESERVE_BYTES + max(beyond_bytes, 0)
        presets.hand_to_manager(pipe, memory_reserve_margin=reserve_bytes)
    elif case.way in MMGP:
        from mmgp import offload, profile_type

        # Stored as they are: quantised weights would make another picture.
        offload.profile(pipe, getattr(profile_type, MMGP[case.way]), quantizeTransformer=False)
    else:
        pipe.enable_group_offload(**options_of(presets.GROUPS[case.way], torch.device("cuda")))
