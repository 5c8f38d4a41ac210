"""`vram doctor`: what could go wrong on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from profiler.cli import printing

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for what could go wrong here: versions, the card and who holds it, files that hide this package.

    Exits with 3 if something is wrong.

    Example: vram doctor
    """
    from profiler.doctor import PROBLEM, examine

    checks = examine()
    if as_json:
        found = [check._asdict() for check in checks]
        printing.answer_json({"schema_version": 1, "checks": found})
    else:
        for check in checks:
            style = _STYLES[check.status]
            fix = f"\n         [cyan]{escape(check.fix)}[/cyan]" if check.fix else ""
            printing.answer(f"[{style}]{check.status:8}[/{style}] {escape(check.told)}{fix}")
    if any(check.status == PROBLEM for check in checks):
        raise typer.Exit(3)
