"""`vram plan`: the fastest way to offload a model that fits a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profiler.cli import printing
from profiler.cli.every_gpu import check_one_gpu
from profiler.cli.options import takes_options
from profiler.cli.scenario_options import ScenarioOptions
from profiler.gpus.hardware import gpu_spec
from profiler.pipelines.checkpoint import is_saved_profile
from profiler.sizing.scenario import Scenario

if TYPE_CHECKING:
    from profiler.planning import Plan
    from profiler.sizing.budgets import Budget


@dataclass(kw_only=True)
class PlanOptions:
    """Options of the plan and its output."""

    budget: Annotated[
        str,
        typer.Option(
            help="GPU memory that the driver may show as used: a size (8GiB), a GPU (all of it, and --gpu if that is "
            "not given), or -2GiB for what is free now less 2 GiB."
        ),
    ]
    ram: Annotated[
        str | None,
        typer.Option(
            help="Host memory that the run may take: 32GiB, or none for any. Where a GPU is here: what is free now."
        ),
    ] = None
    objective: Annotated[
        str, typer.Option(help="What to minimise: seconds or bytes of a call, or first-image.")
    ] = "seconds"
    levers: Annotated[
        str,
        typer.Option(
            help="What a plan may use besides the sequence and exclusions, of swap, stream, group, sequential and "
            "disk; none for diffusers' model offload alone."
        ),
    ] = "swap,stream,group,sequential"
    allow: Annotated[
        str,
        typer.Option(
            help="What may be done that can change the picture, if nothing fits without: vae-slicing, vae-tiling, fp8, "
            "drop:text_encoder_3."
        ),
    ] = ""
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds of searching, after which the best found is taken."),
    ] = None
    code: Annotated[
        bool, typer.Option("--code", help="Print the plan as plain diffusers lines.")
    ] = False
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Save the plan (JSON).")] = (
        None
    )
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


@takes_options
def plan(what: ScenarioOptions, options: PlanOptions) -> None:
    """Plan the offloading of MODEL, or of a saved profile, under a budget of GPU memory.

    Exits with 3 if nothing fits, and says by how much and what to try.

    Example: vram plan sdxl-base --budget 8GiB --code

    Example: vram plan my-model.gguf --budget 12GiB
    """
    from profiler.atomic import check_writable
    from profiler.sizing.budgets import gpu_budget
    from profiler.sizing.size import plan_model

    instead = "plan for each; vram profile takes several, and says which run it as it is"
    check_one_gpu(what.gpu, to="a plan", instead=instead)
    allowed = gpu_budget(options.budget)
    scenario = on_budgets_gpu(what.scenario(), allowed)
    ram_bytes = host_bytes(options.ram, scenario)
    if options.output is not None:
        check_writable(options.output)
    with printing.progress() as report:
        found = plan_model(
            scenario,
            allowed.nbytes,
            ram_bytes=ram_bytes,
            objective=options.objective,
            levers=options.levers,
            allow=options.allow,
            time_limit_seconds=options.time_limit,
            report=report,
        )
    if options.output is not None:
        found.save(options.output)
    if options.as_json:
        printing.answer_json(found.summary())
    elif options.code:
        printing.answer_code(found.to_code())
    else:
        printing.answer(found.to_text() + _origin(allowed, found))


def on_budgets_gpu(scenario: Scenario, budget: Budget) -> Scenario:
    """Return the scenario on the GPU that the budget names, unless its options or its profile name one."""
    if not budget.gpu or scenario.gpu or scenario.capacity or is_saved_profile(scenario.model):
        return scenario
    return replace(scenario, gpu=budget.gpu)


def _origin(budget: Budget, found: Plan) -> str:
    """Return the line on the budget's origin, and on context and seconds if they are another GPU's; "" for a size."""
    if not budget.origin:
        return ""
    other = budget.gpu and gpu_spec(budget.gpu).name != found.gpu
    clock = f"; context and seconds are those of {found.gpu}" if other else ""
    return f"\n  budget     {budget.origin}{clock}"


def host_bytes(text: str | None, scenario: Scenario) -> int | None:
    """Return the host memory that the run may take; if it is not given and a GPU is here, the memory that is free.

    Where host and GPU share one memory, the budget is of both.
    """
    from profiler.gpus import nvml
    from profiler.sizing.budgets import free_host_bytes
    from profiler.units import parse_bytes

    if text == "none":
        return None
    if text is not None:
        return parse_bytes(text)
    if nvml.gpu_memory() is None or scenario.gpu_spec().unified_memory:
        return None
    return free_host_bytes()
