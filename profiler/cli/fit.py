"""`vram fit`: the largest batch, number of frames or size that fits a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profiler.cli import printing
from profiler.cli.every_gpu import check_one_gpu
from profiler.cli.options import takes_options
from profiler.cli.plan import host_bytes, on_budgets_gpu
from profiler.cli.scenario_options import ScenarioOptions
from profiler.errors import InputError
from profiler.libraries.modes import DEFAULT_MODE, MODES
from profiler.units import format_bytes, format_range, format_seconds

if TYPE_CHECKING:
    from profiler.sizing.fit import Largest
    from profiler.sizing.scenario import Scenario


@dataclass(kw_only=True)
class FitScenarioOptions(ScenarioOptions):
    """Options of a scenario whose placement the planner chooses unless one is named."""

    mode: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(MODES)}; the best plan if none is named.",
            rich_help_panel="Placement",
        ),
    ] = ""

    def scenario(self) -> Scenario:
        """Return the scenario that the options describe."""
        named = replace(self, mode=self.mode or DEFAULT_MODE)
        return ScenarioOptions.scenario(named)


@dataclass(kw_only=True)
class FitOptions:
    """Options of the question and its output."""

    quantity: Annotated[
        str,
        typer.Option(
            "--max",
            metavar="QUANTITY",
            help="What is to be largest: batch, frames, height or width (the other side follows), or side (a square).",
        ),
    ]
    budget: Annotated[
        str | None,
        typer.Option(help="GPU memory that may be used, as for vram plan; all of the GPU's."),
    ] = None
    ram: Annotated[
        str | None, typer.Option(help="Host memory that a plan may take, as for vram plan.")
    ] = None
    levers: Annotated[str, typer.Option(help="What a plan may use, as for vram plan.")] = (
        "swap,stream,group,sequential"
    )
    limit: Annotated[
        int | None,
        typer.Option(help="The most that is tried: 64 a batch, 1025 frames, 4096 pixels."),
    ] = None
    code: Annotated[
        bool, typer.Option("--code", help="Print the plan as plain diffusers lines.")
    ] = False
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Save the plan (JSON).")] = (
        None
    )
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


@takes_options
def fit(what: FitScenarioOptions, options: FitOptions) -> None:
    """Find the largest batch, number of frames or size of MODEL that fits a GPU, and the plan that makes it fit.

    Exits with 3 if not even the smallest fits.

    Example: vram fit sdxl-base --gpu rtx-4060 --max batch

    Example: vram fit wan2.1-t2v-1.3b --gpu rtx-4090 --max frames --mode model
    """
    from profiler.atomic import check_writable
    from profiler.sizing.budgets import gpu_budget
    from profiler.sizing.fit import largest_fitting

    check_one_gpu(what.gpu, to="vram fit", instead="ask for each")
    if what.mode and (options.code or options.output is not None):
        raise InputError("--code and -o are of a plan: drop them, or --mode to have one chosen")
    scenario = what.scenario()
    allowed = None if options.budget is None else gpu_budget(options.budget)
    if allowed is not None:
        scenario = on_budgets_gpu(scenario, allowed)
    if options.output is not None:
        check_writable(options.output)
    with printing.progress() as report:
        found = largest_fitting(
            scenario,
            options.quantity,
            budget_bytes=None if allowed is None else allowed.nbytes,
            planned=not what.mode,
            limit=options.limit,
            ram_bytes=host_bytes(options.ram, scenario),
            levers=options.levers,
            report=report,
        )
    if options.output is not None and found.plan is not None:
        found.plan.save(options.output)
    if options.as_json:
        printing.answer_json(found.summary())
    elif options.code and found.plan is not None:
        printing.answer_code(found.plan.to_code())
    else:
        printing.answer(_told(found, scenario))


def _told(found: Largest, scenario: Scenario) -> str:
    """Return the answer as text, with the plan below it if there is one."""
    name = scenario.gpu_spec().name
    size = "" if found.height is None else f" ({found.height} x {found.width}, height x width)"
    lines = [
        f"{scenario.model} within {format_bytes(found.budget_bytes)} on {name}: {found.quantity} {found.value}{size}",
        f"  needs      {format_bytes(found.needed_bytes)}{_in_mode(found, scenario)}",
        f"  next       {_next(found)}",
        f"  tried      {', '.join(map(str, found.tried))}; in steps of {found.step}, up to {found.limit} (--limit)",
    ]
    text = "\n".join(lines)
    return text if found.plan is None else f"{text}\n{found.plan.to_text()}"


def _in_mode(found: Largest, scenario: Scenario) -> str:
    run = found.run
    if run is None or run.seconds is None:
        return " with the plan below"
    band = format_range(run.seconds, run.seconds_band, run.seconds_band_below)
    return f" in mode {scenario.mode.name}, {format_seconds(run.seconds)} ({band})"


def _next(found: Largest) -> str:
    if found.next_value is None or found.next_missing_bytes is None:
        return "none: all that was to be tried fits"
    return f"{found.next_value} does not fit: {format_bytes(found.next_missing_bytes)} are missing"
