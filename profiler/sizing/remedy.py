"""Remedies for a run that ran out of memory: the size of the whole call, a GPU for it, a plan for this GPU."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.errors import FindingError, InputError, ProfilerError
from profiler.findings.fixes import LEAF, in_mode, runnable
from profiler.gpus.hardware import gpu_specs
from profiler.record.trial import Trial, WholeCall
from profiler.record.verdict import FITS, TIGHT, ran_out_of_memory, verdict
from profiler.sizing.scenario_words import command_words, size_word
from profiler.sizing.size import plan_model, profile_model, profile_without_limit
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from profiler.gpus.hardware import GpuSpec
    from profiler.planning import Plan
    from profiler.record.profile import Profile
    from profiler.sizing.runs import Report
    from profiler.sizing.scenario import Scenario

_MOST_RUNS = 4  # on GPUs for which the figures leave a doubt
_HALVED = ("height", "width", "frames")
_MULTIPLE = 64  # pixels: every pipeline of diffusers accepts multiples of this as sides


def with_remedy(profile: Profile, scenario: Scenario, *, report: Report | None = None) -> Profile:
    """Return the profile, with what would have fitted if it ran out of memory.

    The call is run once more unchanged, on a GPU without a memory limit. The best plan for the profile's GPU is
    confirmed by a run, and so is every other remedy.

    Args:
        profile: The profile of `scenario`.
        scenario: The scenario that ran.
        report: Called with each step as it begins.
    """
    failure = profile.failure
    if not ran_out_of_memory(profile) or failure is None:
        return profile
    unlimited = _run_to_its_end(scenario, report)
    remedy = _fitting(profile, scenario, unlimited, report)
    trials = () if remedy.trial is None else (remedy.trial,)
    return replace(
        profile,
        trials=(*profile.trials, *trials),
        failure=replace(
            failure,
            whole=None if unlimited is None else _whole_call(scenario, unlimited, report),
            remedy=remedy.sentence,
            remedy_code=remedy.code,
            remedy_changes=remedy.changes,
        ),
    )


def _run_to_its_end(scenario: Scenario, report: Report | None) -> Profile | None:
    """Return the profile of the unchanged call without a limit; None if it fails for another reason than memory."""
    try:
        profile = profile_without_limit(scenario, report=report)
    except ProfilerError:
        return None
    return profile if profile.complete else None


# -- the size of a sufficient GPU


def _whole_call(scenario: Scenario, unlimited: Profile, report: Report | None) -> WholeCall:
    whole = WholeCall(
        device_bytes=verdict(unlimited).needed_bytes, seconds=unlimited.totals.seconds
    )
    found = _smallest_gpu(scenario, unlimited, report)
    if found is None:
        return whole
    on, needed_bytes = found
    return replace(
        whole, gpu=on.name, gpu_capacity_bytes=on.capacity_bytes, gpu_device_bytes=needed_bytes
    )


def _smallest_gpu(
    scenario: Scenario, unlimited: Profile, report: Report | None
) -> tuple[GpuSpec, int] | None:
    """Return the smallest listed GPU that runs the unchanged scenario, and the bytes needed there.

    For a GPU of the same generation, the figures of the run without a limit hold. If they leave a doubt (another
    generation, or only the memory reserved beyond the allocated is too much), a run decides.
    """
    own, runs = scenario.gpu_spec(), 0
    known = {_kernels(own): unlimited}
    weights = _weights_at_once(unlimited)
    for one in _with_the_rules_of(own):
        if one.capacity_bytes < one.context_bytes + weights:
            continue
        there = replace(scenario, gpu=one.key, capacity=None)
        if _kernels(one) not in known:
            known[_kernels(one)] = profile_without_limit(there, report=report)
        totals, band = (found := known[_kernels(one)]).totals, verdict(found).band_bytes
        needed = one.context_bytes + totals.peak_reserved_bytes + band
        if one.context_bytes + totals.peak_allocated_bytes > one.capacity_bytes:
            continue
        fits = needed <= one.capacity_bytes
        if one.generation != own.generation or not fits:
            runs += 1
            if runs <= _MOST_RUNS:
                checked = verdict(profile_model(there, report=report))
                fits, needed = checked.answer in (FITS, TIGHT), checked.needed_bytes
        if fits:
            return one, needed
    return None


def _with_the_rules_of(own: GpuSpec) -> Iterator[GpuSpec]:
    """Yield the listed GPUs whose memory goes by the same rules, smallest first."""
    alike = (own.platform, own.unified_memory)
    return (one for one in gpu_specs() if (one.platform, one.unified_memory) == alike)


def _kernels(one: GpuSpec) -> tuple[bool, bool]:
    """Return the properties of a GPU that decide the memory of its kernels: fused attention, and cuDNN's attention."""
    return one.compute_capability >= (8, 0), one.compute_capability[0] in (9, 10)


def _weights_at_once(profile: Profile) -> int:
    """Return the least bytes of weights that must be on the GPU at once."""
    sizes = [part.allocated_bytes for part in profile.components]
    if profile.mode == "resident":
        return sum(sizes)
    return max(sizes, default=0) if profile.mode == "model" else 0


# -- remedies for this GPU


class _Remedy(NamedTuple):
    """A remedy: a sentence, its line of code, the changes that it makes to the run, and the trial that confirms it."""

    sentence: str
    code: str = ""
    changes: dict[str, Any] = {}  # noqa: RUF012  # never changed
    trial: Trial | None = None


def _fitting(
    profile: Profile, scenario: Scenario, unlimited: Profile | None, report: Report | None
) -> _Remedy:
    """Return a remedy that fits the profile's GPU."""
    whole = replace(scenario, mode=scenario.mode.unsplit)
    capacity_bytes = profile.gpu.capacity_bytes
    try:
        if unlimited is None or whole != scenario:
            unlimited = profile_without_limit(whole, report=report)
        plan = _plan(unlimited, capacity_bytes, report)
    except FindingError as error:
        grouped = _in_groups(scenario, report)
        if grouped is not None:
            return grouped
        changed = _changed(whole, profile.dtype)
        return _otherwise(changed, capacity_bytes, report) or _Remedy(f"No plan fits: {error}")
    except ProfilerError:  # a pipeline that diffusers cannot offload by components
        return _Remedy("")
    sentence = f"A plan would have fitted, with {_needed(plan)}: {_placed(plan)}."
    return _Remedy(sentence, _line(plan, whole), {"mode": "plan"}, _trial(plan, {}))


def _in_groups(scenario: Scenario, report: Report | None) -> _Remedy | None:
    """Return leaf-level group offload if it fits: plans split only components whose parts can be replayed."""
    mode = replace(scenario.mode.unsplit, name="group-leaf")
    if scenario.mode.name == mode.name or scenario.gpu_spec().unified_memory:
        return None
    try:
        answer = verdict(found := profile_model(replace(scenario, mode=mode), report=report))
    except ProfilerError:
        return None
    if answer.answer != FITS:
        return None
    return _Remedy(
        f"No plan fits that can be replayed, but group offload by leaf does: {format_bytes(answer.needed_bytes)}.",
        in_mode(found, LEAF).line,
        LEAF.changes,
        Trial(
            changes=runnable(LEAF.changes),
            fits=True,
            device_bytes=found.totals.device_bytes,
            seconds=found.totals.seconds,
        ),
    )


def _plan(unlimited: Profile, capacity_bytes: int, report: Report | None) -> Plan:
    """Return a plan that needs only diffusers' own calls if one fits, else the best plan of all."""
    try:
        return plan_model(unlimited, capacity_bytes, levers=(), report=report)
    except FindingError:
        return plan_model(unlimited, capacity_bytes, report=report)


def _otherwise(
    changes: Iterable[_Change], capacity_bytes: int, report: Report | None
) -> _Remedy | None:
    """Return the first change of the run with which a plan fits; each is run, in the order given."""
    for words, what, changed in changes:
        try:
            plan = plan_model(changed, capacity_bytes, report=report)
        except (
            FindingError,
            InputError,
        ):  # does not fit either, or the pipeline does not support it
            continue
        sentence = f"Nothing fits as it is. With {words} a plan does, with {_needed(plan)}: {_placed(plan)}."
        return _Remedy(
            sentence,
            _command(changed, plan.budget_bytes),
            {"mode": "plan", **what},
            _trial(plan, what),
        )
    return None


_Change = tuple[str, dict[str, Any], "Scenario"]
"""A possible change of a run: in words, as `Finding.changes`, and the scenario with it."""


def _changed(whole: Scenario, dtype: str) -> Iterator[_Change]:
    """Yield possible changes of a run, the mildest first."""
    mode = whole.mode
    tiles = {} if mode.vae_tiling else {"vae_tiling": True}
    if not mode.vae_slicing and (whole.batch or 1) > 1:
        yield _in(whole, "the VAE decoding image by image", vae_slicing=True)
    if tiles:
        yield _in(whole, "the VAE working in tiles", "", **tiles)
    if _is_wide(whole, dtype):
        yield _in(whole, "float16", "float16")
        if tiles:
            yield _in(whole, "float16 and the VAE working in tiles", "float16", **tiles)
    if not mode.layerwise_casting:
        yield _in(whole, "the denoiser stored in float8", layerwise_casting=True)
    yield from _smaller(whole, tiles)


def _in(scenario: Scenario, words: str, dtype: str = "", **switched_on: bool) -> _Change:
    mode = replace(scenario.mode, **switched_on)  # type: ignore[arg-type]
    what: dict[str, Any] = {**switched_on, **({"dtype": dtype} if dtype else {})}
    return words, what, replace(scenario, mode=mode, dtype=dtype or scenario.dtype)


def _is_wide(scenario: Scenario, dtype: str) -> bool:
    """Tell whether float16 takes less: than float32, or than bfloat16 if the GPU has no hardware for it."""
    lacking = scenario.gpu_spec().compute_capability < (8, 0)
    return dtype == "float32" or (dtype == "bfloat16" and lacking)


def _smaller(scenario: Scenario, tiles: dict[str, bool]) -> Iterator[_Change]:
    """Yield the scenario with half of the requested sides and frames."""
    halved = {}
    for name in _HALVED:
        asked = getattr(scenario, name)
        if asked:
            sides = max(asked // 2 // _MULTIPLE * _MULTIPLE, _MULTIPLE)
            halved[name] = asked // 2 | 1 if name == "frames" else sides
    if halved:
        words = ", ".join(f"{name} {value}" for name, value in halved.items())
        smaller = replace(scenario, **halved)
        for more, switched_on in (("", {}), (" and the VAE working in tiles", tiles)):
            if switched_on or not more:
                found, what, changed = _in(smaller, f"{words}{more}", "", **switched_on)
                yield found, {**what, "size": "smaller"}, changed


def _trial(plan: Plan, what: dict[str, Any]) -> Trial:
    return Trial(
        changes=runnable({"mode": "plan", **what}),
        fits=True,
        device_bytes=plan.margin.device_bytes,
        seconds=plan.predicted.seconds or 0.0,
        kept=plan.excluded,
        told=_placed(plan),
    )


def _needed(plan: Plan) -> str:
    return format_bytes(plan.margin.device_bytes)


def _placed(plan: Plan) -> str:
    turns = f"{' -> '.join(plan.sequence)} in turn" if plan.sequence else "nothing in turn"
    return f"{', '.join(plan.excluded)} on the GPU, {turns}" if plan.excluded else turns


def _line(plan: Plan, scenario: Scenario) -> str:
    """Return the plan's code if it is one line or can be written as one, else the command that prints it."""
    lines = [line for line in plan.to_code().strip().splitlines() if not line.startswith("#")]
    plain = all(line.startswith("pipe.") for line in lines)
    return "; ".join(lines) if plain else _command(scenario, plan.budget_bytes)


def _command(scenario: Scenario, budget_bytes: int) -> str:
    words = ["vram", "plan", *command_words(scenario, placed=False)]
    return f"{shlex.join([*words, '--budget', size_word(budget_bytes)])} --code"
