"""`vram demo`: every step on SDXL and a virtual 8 GB GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli import printing


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to write the files.")] = Path("vram-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Profile SDXL on a virtual 8 GB GPU, plan its offloading, apply the plan, verify, report.

    Needs no GPU and no weights, and takes under a minute.

    Example: vram demo
    """
    from profiler.cli.demo_run import run_demo

    with printing.progress() as report:
        found = run_demo(folder, report=report)
    if as_json:
        printing.answer_json(found.summary())
    else:
        printing.answer(found.story())
