"""What would have fitted, for a run that ran out of memory: the plan for its card, and its line of code."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.errors import FindingError, ProfilerError
from profiler.modes import Mode
from profiler.pipelines.dtypes import written
from profiler.sizing import plan_model
from profiler.units import GIB, MIB, format_bytes, parse_bytes
from profiler.verdict import ran_out_of_memory

if TYPE_CHECKING:
    from profiler.planning import Plan
    from profiler.profile import Profile
    from profiler.scenario import Scenario
    from profiler.sizing import Report


def with_remedy(profile: Profile, scenario: Scenario, *, report: Report | None = None) -> Profile:
    """Return the profile with what would have fitted, if it ran out of memory.

    The model runs once more on a card without limit, and the best plan for the card of the profile is confirmed on it.

    Args:
        profile: of `scenario`.
        scenario: what ran.
        report: told what is being done.
    """
    if not ran_out_of_memory(profile) or profile.failure is None:
        return profile
    remedy, code = _fitting(scenario, profile.gpu.capacity_bytes, report)
    return replace(profile, failure=replace(profile.failure, remedy=remedy, remedy_code=code))


def _fitting(scenario: Scenario, capacity_bytes: int, report: Report | None) -> tuple[str, str]:
    whole = replace(scenario, mode=Mode(name="model"))
    try:
        plan = _plan(whole, capacity_bytes, report)
    except FindingError as error:
        return f"No plan fits: {error}", ""
    except ProfilerError:  # a pipeline that diffusers cannot offload by components
        return "", ""
    needed = format_bytes(plan.margin.device_bytes)
    return f"A plan would have fitted, with {needed}: {_placed(plan)}.", _line(plan, whole)


def _plan(scenario: Scenario, capacity_bytes: int, report: Report | None) -> Plan:
    """Return a plan that is a few lines of diffusers' own, if one fits, else the best of all."""
    try:
        return plan_model(scenario, capacity_bytes, levers=(), report=report)
    except FindingError:
        return plan_model(scenario, capacity_bytes, report=report)


def _placed(plan: Plan) -> str:
    turns = f"{' -> '.join(plan.sequence)} in turn" if plan.sequence else "nothing in turn"
    return f"{', '.join(plan.excluded)} on the card, {turns}" if plan.excluded else turns


def _line(plan: Plan, scenario: Scenario) -> str:
    """Return the plan's code where it is one line or can be written as one, else the command that prints it."""
    lines = plan.to_code().strip().splitlines()
    plain = all(line.startswith("pipe.") for line in lines)
    return "; ".join(lines) if plain else _command(scenario, plan.budget_bytes)


def _command(scenario: Scenario, budget_bytes: int) -> str:
    options = {
        "--pipeline": scenario.pipeline_class or None,
        "--gpu": scenario.gpu,
        "--capacity": scenario.capacity and _size(parse_bytes(scenario.capacity)),
        "--dtype": scenario.dtype and written(scenario.dtype),
        "--height": scenario.height,
        "--width": scenario.width,
        "--frames": scenario.frames,
        "--batch": scenario.batch,
        "--steps": scenario.steps,
        "--budget": _size(budget_bytes),
    }
    words = ["vram", "plan", scenario.model]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    for name, kind in scenario.quantization.items():
        words += ["--quantize", f"{name}={kind}"]
    for name, value in scenario.extra.items():
        words += ["--set", f"{name}={value}"]
    return f"{shlex.join(words)} --code"


def _size(count: int) -> str:
    """Return `count` bytes as the command takes them, to the byte."""
    unit, name = next(one for one in ((GIB, "GiB"), (MIB, "MiB"), (1, "B")) if count % one[0] == 0)
    return f"{count // unit}{name}"
