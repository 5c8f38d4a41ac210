"""`vram doctor`: checks for problems on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from profiler.checking.plain_text import one_line
from profiler.cli import printing

if TYPE_CHECKING:
    from profiler.sizing.doctor import Check

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for what could go wrong here: versions, the GPU and who holds it, files that hide this package.

    Exits with 3 if something is wrong.

    Example: vram doctor
    """
    from profiler.sizing.doctor import PROBLEM, examine

    checks = examine()
    if as_json:
        found = [check._asdict() for check in checks]
        printing.answer_json({"schema_version": 1, "checks": found})
    else:
        for check in checks:
            printing.answer(_line(check))
    if any(check.status == PROBLEM for check in checks):
        raise typer.Exit(3)


def _line(check: Check) -> Text:
    """Return a check as one line, with its fix on another."""
    line = Text().append(f"{check.status:8}", style=_STYLES[check.status])
    line.append(f" {one_line(check.told)}")
    return line.append(f"\n         {one_line(check.fix)}", style="cyan") if check.fix else line
