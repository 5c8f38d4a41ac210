"""`vram profile`: profiles the memory of one run of a model on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from profiler.cli import printing
from profiler.cli.every_gpu import answer_for_each, check_one_gpu, names_several
from profiler.cli.options import takes_options
from profiler.cli.scenario_options import ScenarioOptions


@dataclass(kw_only=True)
class ProfileOptions:
    """Output options of the profile."""

    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Save the profile (Parquet).")
    ] = None
    html: Annotated[Path | None, typer.Option(help="Write a report (HTML).")] = None
    png: Annotated[Path | None, typer.Option(help="Write the picture (PNG).")] = None
    memory_history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pickle", help="Write torch's own history, for pytorch.org/memory_viz."
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


@takes_options
def profile(what: ScenarioOptions, options: ProfileOptions) -> None:
    """Profile one run of MODEL on a GPU that need not be there, or on many.

    Exits with 3 if it does not fit, of several GPUs none.

    Example: vram profile sdxl-base --gpu rtx-4060 --mode model --html report.html

    Example: vram profile my-model.safetensors --gpu rtx-4060

    Example: vram profile sdxl-base --gpu all --mode resident
    """
    if names_several(what.gpu):
        _on_each_gpu(what, options)
        return
    from profiler.atomic import check_writable
    from profiler.record.verdict import FITS, TIGHT, verdict
    from profiler.sizing.checked_fixes import with_checked_fixes
    from profiler.sizing.remedy import with_remedy
    from profiler.sizing.size import profile_model

    scenario = what.scenario()
    for path in filter(None, (options.output, options.html, options.png, options.memory_history)):
        check_writable(path)
    with printing.progress() as report:
        recorded = options.memory_history is not None
        found = profile_model(scenario, report=report, memory_history=recorded)
        found = with_remedy(found, scenario, report=report)
        found = with_checked_fixes(found, scenario, report=report)
        printing.write(found, output=options.output, html=options.html, png=options.png)
        if options.memory_history is not None and found.memory_history is not None:
            found.memory_history.save(options.memory_history)
    if options.as_json:
        printing.answer_json(found.summary())
    else:
        printing.answer_profile(found)
    if verdict(found).answer not in (FITS, TIGHT):
        raise typer.Exit(3)


def _on_each_gpu(what: ScenarioOptions, options: ProfileOptions) -> None:
    """Print a row for each GPU instead of a profile."""
    files = {
        "-o": options.output,
        "--html": options.html,
        "--png": options.png,
        "--memory-history": options.memory_history,
    }
    for option, path in files.items():
        if path is not None:
            check_one_gpu(what.gpu, to=option, instead="name one, or drop it and take --json")
    answer_for_each(what.scenario(), as_json=options.as_json)
