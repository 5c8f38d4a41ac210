"""The report as one PNG picture: the answer, the timeline, the sum against the GPU's memory, the plan beside stock.

It is drawn with matplotlib's objects on an Agg canvas: the caller's backend, style and open figures are not changed.
"""

from __future__ import annotations

from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from profiler.atomic import replacing
from reports import png_panels, png_timeline, story
from reports.curves import host_top_bytes
from reports.palette import SOFT, component_colours
from reports.plan_view import check_same, plan_view
from reports.sum_bar import gpu_share, sum_pieces
from reports.timeline import timeline

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from profiler.planning.plan import Plan
    from profiler.record.profile import Profile

WIDTH_INCHES = 12.0
DOTS_PER_INCH = 150
MARGIN = 0.45
HEADLINE = 21
LANE_INCHES = 0.26
HEIGHT_WITHOUT_LANES = 7.4
FIGURES_IN_A_LINE = 3
PLAN_INCHES = 2.0
HOST_INCHES = 0.9
SENTENCE_INCHES = 0.22
SENTENCE_CHARACTERS = 130
VERDICT_COLOURS = {"fits": "#1a7f4b", "tight": "#a66a00", "does not fit": "#b3261e"}
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#cdc9c1",
    "axes.labelcolor": "#5f6368",
    "text.color": "#1d1f21",
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a dollar sign in a name is literal
}


def write_png(path: str | os.PathLike[str], profile: Profile, *, plan: Plan | None = None) -> None:
    """Write the picture of `profile` to `path`, whole or not at all.

    Raises:
        InputError: if `path` cannot be written, or the plan is of another pipeline.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(render_png(profile, plan=plan))


def render_png(profile: Profile, *, plan: Plan | None = None) -> bytes:
    """Return the picture that `write_png` writes; `IPython.display.Image` shows it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    style: Any = {
        name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
    }
    if plan is not None:
        check_same(plan, profile)
    content = BytesIO()
    with mpl.rc_context(style | STYLE):
        canvas: Any = FigureCanvasAgg(_figure(profile, plan))
        canvas.print_png(content, metadata={"Software": "vram-profiler"})
    return content.getvalue()


class _Sheet:
    """A page that is filled from the top; heights are in inches."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure

        self.height = height
        self.used = 0.35
        self.figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")

    def axes(self, height: float, *, left: float = MARGIN, right: float = MARGIN) -> Axes:
        """Return axes below everything placed so far."""
        self.used += height
        width = WIDTH_INCHES - left - right
        box = (
            left / WIDTH_INCHES,
            1 - self.used / self.height,
            width / WIDTH_INCHES,
            height / self.height,
        )
        return self.figure.add_axes(box)

    def line(self, text: str, size: float, *, gap: float = 0.1, **style: Any) -> None:
        """Place a line of text."""
        self.used += size / 72
        self.figure.text(
            MARGIN / WIDTH_INCHES, 1 - self.used / self.height, text, size=size, **style
        )
        self.used += gap

    def skip(self, height: float) -> None:
        """Leave vertical space."""
        self.used += height


def _figure(profile: Profile, plan: Plan | None) -> Figure:
    rows = len(profile.components) + 2
    height = HEIGHT_WITHOUT_LANES + LANE_INCHES * rows + (PLAN_INCHES if plan else 0.0)
    height += HOST_INCHES + 0.12 if host_top_bytes(profile) else 0.0
    height += SENTENCE_INCHES * len(_ways_out(profile))
    sheet = _Sheet(height)
    _answer(sheet, profile)
    _picture(sheet, profile, rows)
    sheet.skip(0.75)
    pieces = sum_pieces(profile)
    sheet.line("The sum against the GPU", 10.5, weight="bold")
    png_panels.sum_bar(sheet.axes(0.62), pieces, gpu_share(profile))
    if plan is not None:
        view = plan_view(plan)
        sheet.skip(0.62)
        sheet.line(f"The plan. {view.headline}", 10.5, weight="bold")
        png_panels.plan(sheet.axes(1.15), view)
    return sheet.figure


def _answer(sheet: _Sheet, profile: Profile) -> None:
    answer = story.answer(profile)
    context = f"{profile.source}   {story.title(profile)}   {profile.gpu.name}"
    sheet.line(context, 9.5, color=SOFT, gap=0.12)
    sheet.line(
        answer.headline,
        HEADLINE if len(answer.headline) < 62 else HEADLINE - 5,
        weight="bold",
        color=VERDICT_COLOURS.get(answer.verdict, "#1d1f21"),
        gap=0.13,
    )
    for sentence in (answer.peak, *_ways_out(profile), answer.basis):
        sheet.line(sentence, 10.5, color=SOFT, gap=0.07)
    shown = [f"{figure.label} {figure.value} ({figure.note})" for figure in story.figures(profile)]
    sheet.line("    ".join(shown[:FIGURES_IN_A_LINE]), 9.5, gap=0.06)
    sheet.line("    ".join(shown[FIGURES_IN_A_LINE:]), 9.5, gap=0.22)


def _ways_out(profile: Profile) -> list[str]:
    """Return the lines on the whole size of a run that ran out of memory, and on what would have fitted."""
    remedy = profile.failure.remedy if profile.failure is not None else ""
    sentences = (story.how_big(profile), remedy)
    return [line for sentence in sentences for line in wrap(sentence, SENTENCE_CHARACTERS)]


def _picture(sheet: _Sheet, profile: Profile, rows: int) -> None:
    picture = timeline(profile)
    if not picture.columns:
        return
    colours = component_colours(profile)
    sides = {"left": 2.15, "right": 1.15}
    png_timeline.phases(sheet.axes(0.42, **sides), picture)
    png_timeline.lanes(sheet.axes(LANE_INCHES * rows, **sides), profile, picture, colours)
    sheet.skip(0.12)
    lowest = sheet.axes(2.9, **sides)
    png_timeline.memory(lowest, profile, picture, colours)
    if host_top_bytes(profile):
        sheet.skip(0.12)
        lowest = sheet.axes(HOST_INCHES, **sides)
        png_timeline.host(lowest, profile, picture)
    png_timeline.foot(lowest, picture)
