"""The report for a terminal: answer, phases, components, peak breakdown, plan and findings, each in a few lines.

Names and sentences are plain text, never rich markup: a folder may be called `[bold]`, a module `[/]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from profiler.checking.plain_text import printable
from profiler.record import moments
from profiler.record import readings as reading
from profiler.units import format_bytes, format_seconds
from reports import story
from reports.palette import component_colours
from reports.plan_view import plan_view
from reports.steps_svg import step_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType

    from profiler.planning.plan import Plan
    from profiler.record.profile import Profile
    from reports.plan_view import PlanView, VerifiedPlan

VERDICT_STYLES = {"fits": "bold green", "tight": "bold yellow", "does not fit": "bold red"}
SEVERITY_STYLES = {"problem": "red", "waste": "yellow", "hint": "green"}
METER = 28  # characters of the widest bar
MOST_STEP_RUNS = 5


def render_text(
    profile: Profile, *, plan: Plan | None = None, verification: VerifiedPlan | None = None
) -> RenderableType:
    """Return the terminal report of `profile`, as a renderable for rich."""
    parts: list[RenderableType] = [_answer(profile), _phases(profile)]
    if reading.steps(profile):
        parts.append(_steps(profile))
    parts += [_components(profile), _bill(profile)]
    if plan is not None:
        parts += _plan(plan_view(plan, verification))
    parts += _findings(profile, plan)
    parts.append(_basis(profile))
    return _Printable(Group(*parts))


class _Printable:
    """A renderable without control characters, some of which rich would pass on to the terminal."""

    def __init__(self, within: RenderableType) -> None:
        self._within = within

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._within, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _answer(profile: Profile) -> Text:
    answer = story.answer(profile)
    text = Text(f"{story.title(profile)}\n", style="dim")
    text.append(f"{answer.headline}\n", style=VERDICT_STYLES.get(answer.verdict, "bold"))
    sentences = [answer.peak, story.how_big(profile), answer.basis]
    text.append("".join(f"{line}\n" for line in sentences if line), style="default not dim")
    for figure in story.figures(profile):
        text.append(f"{figure.label} ", style="dim")
        text.append(figure.value, style="bold not dim")
        text.append(f" ({figure.note})  ", style="dim")
    return text


def _table(title: str, *columns: str) -> Table:
    """Return a table; columns whose names start with `>` are right-aligned."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        table.add_column(
            name.lstrip(">"),
            justify="right" if name.startswith(">") else "left",
            header_style="dim",
            overflow="fold",
        )
    return table


def _row(table: Table, *cells: str | Text, style: str = "") -> None:
    """Add a row as `Text`, since rich would parse a plain `str` as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def _phases(profile: Profile) -> Table:
    table = _table("Phases", "phase", ">peak", "", ">to the GPU", ">to the CPU", ">time")
    capacity = profile.gpu.capacity_bytes
    for name, tally in reading.phases(profile):
        peak = tally.peak_allocated_bytes
        moved = (format_bytes(tally.h2d_bytes), format_bytes(tally.d2h_bytes))
        _row(
            table,
            name,
            format_bytes(peak),
            _meter(peak, capacity),
            *moved,
            format_seconds(tally.seconds),
        )
    return table


def _meter(size: int, whole: int) -> Text:
    """Return a bar of `size` in `whole`; red if `size` is more."""
    filled = min(METER, round(METER * size / whole)) if whole else 0
    bar = Text("━" * filled, style="red" if size > whole else "blue")
    return bar.append("─" * (METER - filled), style="dim")


def _steps(profile: Profile) -> Table:
    table = _table(
        "Denoise steps",
        "steps",
        ">peak",
        ">to the GPU",
        ">to the CPU",
        ">time each",
        "on the GPU",
    )
    runs = step_runs(profile)
    for run in runs[:MOST_STEP_RUNS]:
        moved = (format_bytes(run.h2d_bytes), format_bytes(run.d2h_bytes))
        resident = ", ".join(run.resident)
        _row(
            table,
            run.label,
            format_bytes(run.peak_bytes),
            *moved,
            format_seconds(run.seconds),
            resident,
        )
    if len(runs) > MOST_STEP_RUNS:
        table.caption = f"and {len(runs) - MOST_STEP_RUNS} more rows: profile.steps"
    return table


def _components(profile: Profile) -> Table:
    table = _table("Components", "name", "class", "dtype", ">weights", ">peak while it ran")
    peaks, colours = moments.compute_peaks(profile), component_colours(profile)
    for part in profile.components:
        name = Text("■ ", style=colours[part.name]).append(part.name, style="default")
        peak = format_bytes(peaks[part.name].peak_bytes) if part.name in peaks else ""
        _row(table, name, part.class_name, part.dtype, format_bytes(part.bytes), peak)
    return table


def _bill(profile: Profile) -> Table:
    moment = story.breakdown_title(profile)
    table = _table(moment.title, "holder", "what", ">bytes", ">")
    for row in story.peak_breakdown(profile):
        _row(
            table,
            row.holder or Text("shared", style="dim"),
            row.what,
            f"{row.bytes:,}",
            format_bytes(row.bytes),
        )
    table.add_section()
    _row(
        table,
        moment.total,
        "",
        f"{moment.bytes:,}",
        format_bytes(moment.bytes),
        style="bold",
    )
    return table


def _plan(view: PlanView) -> list[RenderableType]:
    columns = ("", ">peak", f">{story.NEEDED}", ">up per call", ">down per call", ">time", "stays")
    table = _table("The plan", *columns)
    for row in view.rows:
        sizes = map(format_bytes, (row.peak_bytes, row.device_bytes, row.h2d_bytes, row.d2h_bytes))
        style = "bold" if row.chosen else ""
        _row(table, row.label, *sizes, row.seconds, row.resident or "nothing", style=style)
    terms = " + ".join(f"{term.label} {format_bytes(term.bytes)}" for term in view.terms)
    needed = (
        f"{terms} = {format_bytes(view.needed_bytes)}, {format_bytes(view.left_bytes)} left over"
    )
    lines = [f"{view.headline}.", view.gain, needed, story.NEEDED_NOTE, view.proof, view.smallest]
    if view.verification:
        lines += [view.verification.headline, *view.verification.complaints]
    return [table, Padding(Text("\n".join(line for line in lines if line)), (0, 0, 1, 0))]


def _findings(profile: Profile, plan: Plan | None) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for finding in story.reported_findings(profile, plan):
        text = Text(f"{finding.severity}: ", style=SEVERITY_STYLES[finding.severity])
        text.append(f"{finding.title}\n", style="bold default")
        text.append(f"{finding.detail}", style="default")
        text.append(f" ({finding.evidence})" if finding.evidence else "", style="dim")
        # The fix is meant to be pasted, so it is not wrapped.
        fix = Text(f"{finding.fix}\n", style="cyan", no_wrap=True, overflow="ignore")
        parts += [text, fix]
    return parts


def _basis(profile: Profile) -> Text:
    lines = story.call_texts(profile)
    lines += [
        f"assumed: {one.what}{f' ({one.effect})' if one.effect else ''}"
        for one in profile.assumptions
    ]
    lines.append(", ".join(f"{name} {version}" for name, version in profile.versions.items()))
    return Text("\n".join(line for line in lines if line), style="dim")
