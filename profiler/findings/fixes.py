"""Fixes that lower a peak or move fewer weights: their lines, their changes to the run, and whether they can help.

A fix is dropped if the record shows that it cannot fit, or if it was tried (`Profile.trials`) and did not help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.checking.code_words import quoted
from profiler.findings import floors
from profiler.findings.run_state import (
    expandable_segments,
    lacks_bfloat16,
    records_stream,
    tiles,
)
from profiler.record.moments import MOVES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from profiler.record.profile import Profile
    from profiler.record.trial import Trial

KEEP = "keep "
"""Prefix of the name of a change that keeps one component on the GPU, or, if False, off it while it is idle."""

RUNNABLE = (
    "mode",
    "stream",
    "record_stream",
    "vae_tiling",
    "vae_slicing",
    "layerwise_casting",
    "dtype",
    "expandable_segments",
)
"""The changes that can be made to a scenario, besides `KEEP` in modes that can exclude components."""


class Fix(NamedTuple):
    """A line of code or advice, and its changes to the run."""

    line: str
    changes: dict[str, Any]


NOTHING_HELPS = Fix("nothing that was tried on this GPU is faster", {})
SMALLER = Fix("a smaller height, width or batch, or a larger GPU", {"size": "smaller"})
FLOAT16 = Fix(
    "load the pipeline in float16: from_pretrained(..., torch_dtype=torch.float16)",
    {"dtype": "float16"},
)
EXPANDABLE = Fix(
    "PYTORCH_ALLOC_CONF=expandable_segments:True  # in the environment, before torch starts",
    {"expandable_segments": True},
)
NO_GRADIENTS = Fix("with torch.no_grad():  # around what calls it", {"gradients": False})
_BINNED = Fix(
    "a smaller height and width with use_resolution_binning=False, or a larger GPU",
    {"size": "smaller", "binning": False},
)
RESIDENT = Fix('pipe.to("cuda")  # in place of offload', {"mode": "resident"})
_MODEL = Fix("pipe.enable_model_cpu_offload()", {"mode": "model"})
LEAF = Fix(
    'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")',
    {"mode": "group-leaf"},
)
_SEQUENTIAL = Fix("pipe.enable_sequential_cpu_offload()", {"mode": "sequential"})
_EACH = (
    "for part in [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]"
)
_MODULAR = {
    "model": Fix(
        'manager.enable_auto_cpu_offload("cuda")  # of the ComponentsManager that has the components',
        {"mode": "model"},
    ),
    "group-leaf": Fix(
        '[apply_group_offloading(part, onload_device=torch.device("cuda"), offload_type="leaf_level") '
        f"{_EACH}]  # from diffusers.hooks",
        {"mode": "group-leaf"},
    ),
    "sequential": Fix(f'[accelerate.cpu_offload(part, "cuda") {_EACH}]', {"mode": "sequential"}),
}
"""The modes' calls for a modular pipeline, which has none of its own."""


def runnable(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `changes` that can be made to a run."""
    keeps = changes.get("mode") != "plan"  # a plan decides by itself what it keeps
    return {
        name: value
        for name, value in changes.items()
        if name in RUNNABLE or (keeps and name.startswith(KEEP) and value)
    }


def trial_of(profile: Profile, changes: Mapping[str, Any]) -> Trial | None:
    """Return the trial of these changes, or None."""
    wanted = runnable(changes)
    return next((one for one in profile.trials if wanted and one.changes == wanted), None)


def is_slower(profile: Profile, changes: Mapping[str, Any]) -> bool:
    """Tell whether these changes were tried, and do not fit or save no time."""
    trial = trial_of(profile, changes)
    return trial is not None and not (trial.fits and trial.seconds < seconds_of_call(profile))


def seconds_of_call(profile: Profile) -> float:
    """Return the average seconds of a call."""
    calls = {event.call for event in profile.events if event.call >= 0}
    return profile.totals.seconds / max(len(calls), 1)


def plan_line(profile: Profile) -> str:
    """Return the line that finds the best plan for the GPU, from a run that split no component, and applies it."""
    known = "profile"
    if profile.mode not in ("resident", "model"):
        known = f'profiler.profile_pipeline(pipe, gpu={quoted(profile.gpu.name)}, mode="model")'
    return f"profiler.plan_offload({known}, {profile.gpu.capacity_bytes}).apply(pipe)"


def planned(profile: Profile, *, keeping: tuple[str, ...] = (), off: tuple[str, ...] = ()) -> Fix:
    """Return a plan as the fix, unless it was tried and did not help.

    Args:
        profile: The profile of the run.
        keeping: Components that should stay on the GPU.
        off: Components that should not stay there while they are idle.
    """
    kept = {f"{KEEP}{name}": True for name in keeping} | {f"{KEEP}{name}": False for name in off}
    fix = Fix(plan_line(profile), {"mode": "plan", **kept})
    return NOTHING_HELPS if is_slower(profile, fix.changes) else fix


def lower_peak(profile: Profile, doing: str, component: str) -> Fix:
    """Return the first fix to try, by the state of the run and its peak.

    Args:
        profile: The profile of the run.
        doing: The activity at the peak, as in `record.events.Moment`.
        component: The component that was active then.
    """
    return _first_with_hope(profile, _lowering(profile, doing, component)) or smaller(profile)


def smaller(profile: Profile) -> Fix:
    """Return the fix that makes the call smaller."""
    binned = any(one.what == "binned_size" for one in profile.conditions)
    return _BINNED if binned else SMALLER


def in_pieces(profile: Profile) -> Fix | None:
    """Return the fix that reduces memory reserved and not allocated; None if the run had it in effect already."""
    growing = [] if expandable_segments(profile) else [EXPANDABLE]
    return _first_with_hope(profile, [_waiting(profile)] if records_stream(profile) else growing)


def _waiting(profile: Profile) -> Fix:
    """Return the fix that uses a stream without `record_stream`."""
    return Fix(
        "pipe.enable_group_offload(..., use_stream=True)  # without record_stream=True",
        {"mode": profile.mode, "stream": True, "record_stream": False},
    )


def _first_with_hope(profile: Profile, fixes: Iterable[Fix]) -> Fix | None:
    for fix in fixes:
        trial = trial_of(profile, fix.changes)
        if trial.fits if trial is not None else not floors.exceeds(profile, fix.changes):
            return fix
    return None


def _lowering(profile: Profile, doing: str, component: str) -> Iterator[Fix]:
    if records_stream(profile):
        yield _waiting(profile)
    if doing not in MOVES and any(one.what == "gradients" for one in profile.conditions):
        yield NO_GRADIENTS
    if lacks_bfloat16(profile) and doing not in MOVES:
        yield FLOAT16
    yield from _placed_otherwise(profile)
    if doing == "decode" and component and not tiles(profile, component):
        yield Fix(f"pipe.{component}.enable_tiling()", {"vae_tiling": True})
    yield from _finer(profile)
    if profile.dtype == "float32":
        yield FLOAT16


def _placed_otherwise(profile: Profile) -> Iterator[Fix]:
    """Yield model offload for a resident run; where host and GPU share one memory, the other way round."""
    if profile.gpu.unified_memory:
        yield from [RESIDENT] if profile.mode != "resident" else []
    elif profile.mode == "resident" and (
        profile.sequence or profile.places_itself or profile.is_modular
    ):
        yield in_mode(profile, _MODEL)


def _finer(profile: Profile) -> Iterator[Fix]:
    """Yield the modes that hold fewer weights at a time than the run did; none where host and GPU share one memory."""
    if profile.gpu.unified_memory:
        return
    grouped = all(part.groups for part in profile.components)
    if profile.mode in ("resident", "model") and grouped:
        yield in_mode(profile, LEAF)
    elif profile.mode == "group-block":
        yield Fix(
            'pipe.enable_group_offload(..., offload_type="leaf_level")', {"mode": "group-leaf"}
        )
    if profile.mode in ("resident", "model"):
        yield in_mode(profile, _SEQUENTIAL)


def in_mode(profile: Profile, fix: Fix) -> Fix:
    """Return the fix that changes the mode, as this kind of pipeline is placed in it."""
    return _MODULAR[fix.changes["mode"]] if profile.is_modular else fix
