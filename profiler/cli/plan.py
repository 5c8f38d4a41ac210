"""`vram plan`: the fastest way to offload a model that fits a budget."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from profiler.cli import printing
from profiler.cli.scenario_options import takes_scenario
from profiler.scenario import Scenario


@partial(takes_scenario, placement=False)
def plan(
    scenario: Scenario,
    budget: Annotated[str, typer.Option(help="GPU memory that the driver may show as used: 8GiB.")],
    ram: Annotated[
        str | None, typer.Option(help="Host memory that the weights may take: 32GiB.")
    ] = None,
    objective: Annotated[str, typer.Option(help="What to minimise: seconds or bytes.")] = "seconds",
    code: Annotated[
        bool, typer.Option("--code", help="Print the plan as plain diffusers lines.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save the plan (JSON).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan the offloading of MODEL, or of a saved profile, under a budget of GPU memory.

    Exits with 3 if nothing fits, and says by how much and what to try.

    Example: vram plan sdxl-base --budget 8GiB --code
    """
    from profiler.atomic import check_writable
    from profiler.sizing import plan_model
    from profiler.units import parse_bytes

    budget_bytes = parse_bytes(budget)
    ram_bytes = None if ram is None else parse_bytes(ram)
    if output is not None:
        check_writable(output)
    with printing.progress() as report:
        found = plan_model(
            scenario, budget_bytes, ram_bytes=ram_bytes, objective=objective, report=report
        )
    if output is not None:
        found.save(output)
    if as_json:
        printing.answer_json(found.summary())
    elif code:
        printing.answer(found.to_code())
    else:
        printing.answer(found.to_text())
