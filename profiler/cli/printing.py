"""Output of the command: answers on standard output, progress and remarks on standard error."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from profiler.checking.plain_text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from profiler.planning import Plan
    from profiler.record.profile import Profile


def answer(renderable: Any) -> None:
    """Print an answer for people on standard output.

    Text is printed without wrapping and without characters that would control the terminal; rich lays out the rest.
    """
    if isinstance(renderable, str):
        sys.stdout.write(printable(renderable) + "\n")
        return
    # Tables keep to the terminal's width by themselves; a line to paste is neither wrapped nor cut.
    whole = isinstance(renderable, Text) or not sys.stdout.isatty()
    Console(highlight=False).print(renderable, crop=False, soft_wrap=whole)


def answer_code(code: str) -> None:
    """Print code on standard output unchanged: it is meant to be pasted, or piped into a file."""
    sys.stdout.write(code)


def answer_json(data: dict[str, Any]) -> None:
    """Print one JSON object on standard output, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def answer_table(
    rows: list[dict[str, Any]],
    *,
    columns: tuple[str, ...],
    headings: Mapping[str, str] | None = None,
) -> None:
    """Print the named columns of `rows` as a table, under their names or other `headings`."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column((headings or {}).get(name, name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(str(row[name]))) for name in columns))
    answer(table)


def answer_profile(profile: Profile) -> None:
    """Print a profile for people."""
    from reports import render_text

    answer(render_text(profile))


def write(
    profile: Profile,
    *,
    output: Path | None = None,
    html: Path | None = None,
    png: Path | None = None,
) -> None:
    """Write a profile to each path that is given, each file whole or not at all."""
    if output is not None:
        profile.save(output)
    write_reports([profile], html=html, png=png)


def write_reports(
    profiles: list[Profile],
    *,
    html: Path | None = None,
    png: Path | None = None,
    plan: Plan | None = None,
) -> list[Path]:
    """Write the page of `profiles` and the picture of the first, and return the paths written."""
    if html is None and png is None:
        return []
    import reports

    if html is not None:
        reports.write_html(html, profiles, plan=plan)
    if png is not None:
        reports.write_png(png, profiles[0], plan=plan)
    return [path for path in (html, png) if path is not None]


def remark(line: str) -> None:
    """Print a line that is not part of the answer on standard error."""
    print(printable(line), file=sys.stderr)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step, as a spinner if standard error is a terminal."""
    console = Console(stderr=True)
    with console.status("starting") as status:
        yield lambda line: status.update(Text(one_line(line)))
