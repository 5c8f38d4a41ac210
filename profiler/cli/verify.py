"""`vram verify`: runs a plan to check that it keeps its promise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli import printing


def verify(
    plan: Annotated[Path, typer.Argument(help="A plan that `vram plan -o` saved.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run PLAN on a GPU with the budget as its capacity, and compare with the promise.

    Exits with 3 if it drifted.

    Example: vram verify plan.json
    """
    from profiler.planning import Plan
    from profiler.sizing.size import verify_plan

    loaded = Plan.load(plan)
    with printing.progress() as report:
        found = verify_plan(loaded, report=report)
    if as_json:
        printing.answer_json(found.summary())
    else:
        printing.answer(str(found))
    if not found.held:
        raise typer.Exit(3)
