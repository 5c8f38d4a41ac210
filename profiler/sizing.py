"""A model by name, sized on a virtual card: what the command and the demo call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.call_arguments import call_arguments, refusals_as_input_errors
from profiler.hardware import Card, card
from profiler.modes import enable_mode
from profiler.profile import Profile
from profiler.scenario import Scenario
from profiler.units import TIB

if TYPE_CHECKING:
    from profiler.applying import Verification
    from profiler.planning import Plan

Report = Callable[[str], None]
"""Told what is being done, one short line each."""


def profile_model(scenario: Scenario, *, report: Report | None = None) -> Profile:
    """Return the predicted profile of one call of the scenario's pipeline, without weights.

    A run that exceeds the capacity gives an incomplete profile that says so.

    Raises:
        InputError: if the model, the card or an argument of the call cannot be used.
    """
    return _profile_on(scenario, scenario.card(), report)


def profile_without_limit(scenario: Scenario, *, report: Report | None = None) -> Profile:
    """Return the profile of a scenario as if its card had memory without end: what a planner starts from.

    Raises:
        InputError: as `profile_model`.
    """
    own = scenario.card()
    profile = _profile_on(scenario, own.with_capacity(TIB), report)
    return replace(profile, gpu=replace(profile.gpu, capacity_bytes=own.capacity_bytes))


def plan_model(
    source: Scenario | Profile,
    budget_bytes: int,
    *,
    ram_bytes: int | None = None,
    objective: str = "seconds",
    report: Report | None = None,
) -> Plan:
    """Return the best offload plan under a budget, for a scenario or from its profile under model offload.

    Args:
        source: what to run, or the profile of it.
        budget_bytes: what the driver may show as used.
        ram_bytes: host memory to stay within.
        objective: what to minimise, "seconds" or "bytes".
        report: told what is being done.

    Raises:
        InputError: if the scenario cannot be run.
        FindingError: if nothing fits; the message says by how much, and what to try.
    """
    from profiler.planning import plan_offload

    profile = (
        source if isinstance(source, Profile) else profile_without_limit(source, report=report)
    )
    _tell(report, "searching")
    return plan_offload(profile, budget_bytes, ram_bytes=ram_bytes, objective=objective)


def verify_plan(plan: Plan, *, report: Report | None = None) -> Verification:
    """Return how a run of the plan, with its budget as the card's capacity, compares with its promise.

    Raises:
        InputError: if the plan's model or card cannot be built.
    """
    from profiler import applying

    scenario = Scenario(model=plan.model, dtype=plan.dtype or None, extra=dict(plan.call))
    with _stage(scenario, card(plan.gpu.name).with_capacity(plan.budget_bytes), report) as pipe:
        applying.apply(plan, pipe)
        _tell(report, f"running {plan.model} under the plan")
        return applying.verify(pipe, plan, **call_arguments(pipe, scenario))


def _profile_on(scenario: Scenario, on: Card, report: Report | None) -> Profile:
    from profiler.tracing import profile_pipeline

    with _stage(scenario, on, report) as pipe:
        arguments = call_arguments(pipe, scenario)
        enable_mode(pipe, scenario.mode)
        _tell(report, f"running {scenario.model} in mode {scenario.mode.name}")
        with refusals_as_input_errors(pipe):
            profile = profile_pipeline(pipe, **arguments)
    return replace(profile, model=scenario.model)


@contextmanager
def _stage(scenario: Scenario, on: Card, report: Report | None) -> Iterator[Any]:
    """Yield the scenario's pipeline, built on a virtual GPU that stands in for the card `on`."""
    _tell(report, "importing torch and diffusers")
    from profiler.pipelines import load_pipeline
    from profiler.virtual import VirtualGPU

    with VirtualGPU(on):
        _tell(report, f"building {scenario.model}")
        pipe = load_pipeline(scenario.model, dtype=scenario.dtype)
        pipe.set_progress_bar_config(disable=True if report is None else None, leave=False)
        yield pipe


def _tell(report: Report | None, line: str) -> None:
    if report is not None:
        report(line)
