"""`vram report`: the page and the picture of saved profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli import printing


def report(
    profiles: Annotated[list[Path], typer.Argument(help="Profiles that `vram profile -o` saved.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write the page (HTML).")
    ] = Path("report.html"),
    plan: Annotated[Path | None, typer.Option(help="A saved plan to show beside them.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write the first profile's picture, too (PNG).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the report of saved PROFILES as one page that opens offline.

    Example: vram report profile.parquet -o report.html
    """
    from profiler.atomic import check_writable
    from profiler.record.profile import Profile

    for path in filter(None, (output, png)):
        check_writable(path)
    loaded = [Profile.load(path) for path in profiles]
    chosen = None
    if plan is not None:
        from profiler.planning import Plan

        chosen = Plan.load(plan)
    written = printing.write_reports(loaded, html=output, png=png, plan=chosen)
    if as_json:
        printing.answer_json({"schema_version": 1, "written": [str(path) for path in written]})
    else:
        printing.answer("\n".join(f"wrote {path}" for path in written))
