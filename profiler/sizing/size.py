"""Sizing of a model by name on a virtual GPU, for the command and the demo: profiles, plans, and their verification."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from profiler.checking.given import check_given, words_of
from profiler.errors import FindingError, InputError
from profiler.gpus.hardware import gpu_spec
from profiler.pipelines.checkpoint import is_saved_profile
from profiler.record.profile import Profile
from profiler.record.settings import HOST_LAUNCH, LOADING
from profiler.sizing.call_arguments import call_arguments, refusals_as_input_errors
from profiler.sizing.runs import other_pipeline, profile_on, stage, tell
from profiler.sizing.scenario import Scenario
from profiler.units import TIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.applying import Verification
    from profiler.planning import Plan, Wish
    from profiler.sizing.runs import Report
    from profiler.tracing import Call

_SCENARIO = "write profiler.Scenario(model='sdxl-base')"


def profile_model(
    scenario: Scenario, *, report: Report | None = None, memory_history: bool = False
) -> Profile:
    """Return the predicted profile of one call of the scenario's pipeline, without weights.

    A run that exceeds the capacity gives an incomplete profile that says so. With `memory_history`, the profile
    contains torch's own memory history of the run.

    Raises:
        InputError: if the model, the GPU or an argument of the call cannot be used.
    """
    check_given(scenario, Scenario, to="profile_model()", instead=_SCENARIO)
    return profile_on(scenario, scenario.gpu_spec(), report=report, memory_history=memory_history)


def profile_without_limit(scenario: Scenario, *, report: Report | None = None) -> Profile:
    """Return the profile of a scenario as if its GPU had unlimited memory; planners start from it.

    Raises:
        InputError: as `profile_model`.
    """
    own = scenario.gpu_spec()
    profile = profile_on(scenario, own.with_capacity(TIB), report=report)
    return replace(profile, gpu=replace(profile.gpu, capacity_bytes=own.capacity_bytes))


def accepted_sizes(
    scenario: Scenario, quantity: str, *, report: Report | None = None
) -> tuple[int, int, tuple[int, int]]:
    """Return a quantity's first value, the step in which the pipeline takes it, and its height and width.

    Args:
        scenario: The scenario, whose own value comes first; else the pipeline's default.
        quantity: "batch", "frames", "height", "width" or "side".
        report: Called with each step as it begins.

    Raises:
        InputError: if the pipeline does not take it, or the scenario cannot be run.
    """
    from profiler.sizing.call_arguments import default_of

    with stage(scenario, scenario.gpu_spec().with_capacity(TIB), report) as pipe:
        from profiler.pipelines.accepted_sizes import accepted_step

        other = other_pipeline(pipe, scenario.pipeline_class) or pipe
        named = ("height", "width") if quantity == "side" else (quantity,)
        start = getattr(scenario, named[0]) or default_of(other, named[0])
        sides = (0, 0)
        if quantity not in ("batch", "frames"):
            height, width = (
                getattr(scenario, side) or default_of(other, side) for side in ("height", "width")
            )
            sides = (height, width)
        if quantity == "batch":
            return start, 1, sides
        tell(report, f"asking {scenario.model} in which steps it takes the {quantity}")
        other.to("cuda")

        def arguments_at(value: int) -> dict[str, Any]:
            changed = {"height": sides[0] or None, "width": sides[1] or None}
            changed |= dict.fromkeys(named, value)
            return call_arguments(other, replace(scenario, **changed))  # type: ignore[arg-type]

        with refusals_as_input_errors(other):
            step = accepted_step(other, start, arguments_at)
    return start, step, sides


def plan_model(  # noqa: PLR0913  # each part of the request has its own name
    source: Scenario | Profile,
    budget_bytes: str | int,
    *,
    ram_bytes: str | int | None = None,
    objective: str | None = None,
    sticky: bool = True,
    levers: str | Sequence[str] | None = None,
    time_limit_seconds: float | None = None,
    slack_bytes: str | int | None = None,
    allow: str | Sequence[str] = (),
    report: Report | None = None,
) -> Plan:
    """Return the best plan under a budget.

    Args:
        source: The scenario to plan for (its `model` may be a saved profile), or a profile.
        budget_bytes: GPU memory that the driver may show as used: "8GiB", or bytes.
        ram_bytes: As in `profiler.plan_offload`.
        objective: As in `profiler.plan_offload`.
        sticky: Whether the plan may replace diffusers' end of a call.
        levers: Placements that may be used besides sequence and exclusions; None for all but the disk.
        time_limit_seconds: Time limit of the search.
        slack_bytes: Allowance for fragmentation.
        allow: Modifiers that may be used although they can change the picture, of `placements.MODIFIERS` or
            "drop:COMPONENT", as a tuple or as comma-separated text; the fewest that let a plan fit are used.
        report: Called with each step as it begins.

    Raises:
        InputError: if the scenario cannot be run, or the profile cannot be planned from.
        FindingError: if nothing fits; the message says by how much, and what to try.

    Example:
        >>> plan_model(Scenario(model="sdxl", gpu="rtx-4060"), "8GiB", ram_bytes="32GiB")
    """
    from profiler.planning.wish import wish_of

    check_given(source, Scenario | Profile, to="plan_model()", instead=_SCENARIO)
    wish = wish_of(
        budget_bytes,
        ram_bytes=ram_bytes,
        objective=objective,
        sticky=sticky,
        levers=levers,
        time_limit_seconds=time_limit_seconds,
        slack_bytes=slack_bytes,
    )
    return _best_plan(source, wish, words_of(allow, "what is allowed"), report)


def _best_plan(
    source: Scenario | Profile, wished: Wish, allow: tuple[str, ...], report: Report | None
) -> Plan:
    """Return the best plan with the fewest modifiers, of those allowed, that let one fit."""
    from profiler.sizing.modifying import combinations_of

    first: FindingError | None = None
    for modifiers in combinations_of(allow):
        tried = _profile_with(source, modifiers, wished, report)
        if tried is None:
            continue  # already in effect
        profile, wish = tried
        tell(report, "searching")
        try:
            plan = _planned(profile, wish, report)
        except FindingError as error:
            first = first or error
            continue
        if wish.ram_bytes is not None:
            _check_loading(profile, wish.ram_bytes)
        return plan
    assert first is not None
    raise first


def _profile_with(
    source: Scenario | Profile, modifiers: tuple[str, ...], wish: Wish, report: Report | None
) -> tuple[Profile, Wish] | None:
    """Return a run with `modifiers` to plan from, and the request for it; None if they change nothing.

    Raises:
        InputError: if the source is a profile and there are modifiers, or the scenario cannot be run.
    """
    from profiler.placements.table import scheme_in_mode
    from profiler.sizing.modifying import modified

    if isinstance(source, Profile):
        if modifiers:
            raise InputError(
                f"{', '.join(modifiers)} would need another run: plan from the model instead"
            )
        return source, wish
    scenario = modified(source, modifiers)
    if modifiers and scenario == source:
        return None
    profile = _to_plan_from(scenario, report)
    names = [part.name for part in profile.components]
    return profile, replace(wish, compared_with=scheme_in_mode(scenario.mode, names))


def _planned(profile: Profile, wish: Wish, report: Report | None) -> Plan:
    """Return the best plan, confirmed by a run if the profile names a model that can be built."""
    from profiler.planning.planner import plan_as
    from profiler.sizing.confirming import confirmed_plan

    if profile.source != "predicted" or not profile.model:
        return plan_as(profile, wish)
    return confirmed_plan(
        profile,
        wish,
        run_peak=lambda plan, capacity_bytes: _run_peak(plan, capacity_bytes, report),
    )


def _to_plan_from(scenario: Scenario, report: Report | None) -> Profile:
    """Return the profile of a run that splits no component, in whatever mode the plan is compared with."""
    if not is_saved_profile(scenario.model):
        whole = replace(scenario, mode=scenario.mode.unsplit)
        return profile_without_limit(whole, report=report)
    if scenario != Scenario(model=scenario.model):
        raise InputError(
            f"{scenario.model} is a profile, with its GPU and call: drop the other options"
        )
    return Profile.load(scenario.model)


def _check_loading(profile: Profile, ram_bytes: int) -> None:
    """Raise FindingError if loading the weights takes more than `ram_bytes`."""
    loading_bytes = profile.totals.loading_host_peak_bytes or 0
    if loading_bytes > ram_bytes:
        raise FindingError(
            f"loading the weights takes {format_bytes(loading_bytes)} of host memory, more than "
            f"{format_bytes(ram_bytes)}: load the components one by one, each onto the GPU before the next"
        )


def _run_peak(plan: Plan, capacity_bytes: int, report: Report | None) -> int | None:
    """Return the peak of consecutive calls under a plan on a virtual GPU of this capacity; None if one fails."""
    import torch

    from profiler import applying
    from profiler.record import readings as reading
    from profiler.sizing.confirming import ROUNDS, shortened
    from profiler.tracing import profile_calls

    with _planned_pipeline(plan, capacity_bytes, report) as (pipe, folder):
        rounds = [list(_calls_of(shortened(plan, steps), pipe)) for steps in ROUNDS]
        others = [call.pipe for calls in rounds for call in calls if call.pipe is not None]
        try:
            applying.apply(plan, pipe, disk_folder=folder, also=others)
            tell(report, f"running {plan.model} under a plan")
            peak_bytes = 0
            for calls in rounds:
                profile = profile_calls(pipe, *calls)
                if not profile.complete:
                    return None
                peak_bytes = max(peak_bytes, reading.called_peak_bytes(profile))
        except (
            torch.OutOfMemoryError,
            FindingError,
        ):  # before a call, which would record the failure itself
            return None
    return peak_bytes


def verify_plan(plan: Plan, *, report: Report | None = None) -> Verification:
    """Run the plan with its budget as the GPU's capacity, and compare the run with the promise.

    Raises:
        InputError: if the plan's model or GPU cannot be built.
    """
    from profiler import applying
    from profiler.planning import Plan

    check_given(plan, Plan, to="verify_plan()", instead="load one with Plan.load(path)")
    if not plan.model:
        raise InputError(
            f"this plan was made from a {plan.pipeline_class} in Python, which no file names: verify it there, with "
            "profiler.verify(pipe, plan)"
        )
    with _planned_pipeline(plan, plan.budget_bytes, report) as (pipe, folder):
        applying.apply(plan, pipe, disk_folder=folder)
        tell(report, f"running {plan.model} under the plan")
        return applying.verify(pipe, plan)


@contextmanager
def _planned_pipeline(
    plan: Plan, capacity_bytes: int, report: Report | None
) -> Iterator[tuple[Any, str]]:
    """Yield the plan's pipeline on a virtual GPU of this capacity, and a temporary folder."""
    scenario = Scenario(
        model=plan.model,
        config=plan.config,
        pipeline_class=plan.pipeline_class,
        dtype=(plan.dtype or None) if plan.dtypes is None else plan.dtypes or None,
        quantization=plan.quantization,
        **_loading_of(plan),
    )
    on = gpu_spec(plan.gpu).with_capacity(capacity_bytes)
    for one in plan.settings:
        if one.what == HOST_LAUNCH:
            on = on.with_host_launch(one.value)
    with TemporaryDirectory() as folder, stage(scenario, on, report) as pipe:
        yield pipe, folder


def _loading_of(plan: Plan) -> dict[str, Any]:
    """Return the options that the plan's pipeline was loaded with, as fields of a scenario."""
    from profiler.pipelines.pipeline_options import pipeline_options_of

    found = (one.value for one in plan.settings if one.what == LOADING)
    options = pipeline_options_of(next(found, {}))
    return {one.name: getattr(options, one.name) for one in fields(options)}


def _calls_of(plan: Plan, pipe: Any) -> Iterator[Call]:
    """Yield the calls that the plan is for, each with its pipeline."""
    from profiler.pipelines.recorded_call import repeatable_call
    from profiler.tracing import Call

    recorded = [(one.pipeline_class, one.call) for one in plan.signatures]
    for class_name, call in recorded or [(plan.pipeline_class, plan.call)]:
        other = other_pipeline(pipe, class_name)
        yield Call(other, **repeatable_call(other or pipe, call))
