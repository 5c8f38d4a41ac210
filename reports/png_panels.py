"""The panels below the timeline of the picture: the sum against the GPU's memory, and the plan beside others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.units import format_bytes
from reports.palette import LIMIT, SOFT, TRACK
from reports.plan_view import cost_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from reports.plan_view import PlanRow, PlanView
    from reports.sum_bar import Piece


def sum_bar(axes: Axes, pieces: Sequence[Piece], gpu_share: float) -> None:
    """Draw the sum against the GPU's memory as one bar, with its legend below."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    start = 0.0
    hatches = {"reserved": "////", "band": "\\\\\\\\"}
    for piece in pieces:
        colour = piece.colour or ("#a66a00" if piece.kind == "band" else SOFT)
        spare = piece.kind == "spare"
        style: dict[str, Any] = {"facecolor": TRACK if spare else colour, "edgecolor": "white"}
        if piece.kind in hatches:
            style = {"facecolor": "none", "edgecolor": colour, "hatch": hatches[piece.kind]}
        label = f"{piece.label}  {format_bytes(piece.bytes)}"
        axes.barh(0.72, piece.share, 0.4, left=start, linewidth=0.6, label=label, **style)
        start += piece.share
    if gpu_share < 1:
        axes.plot(
            [gpu_share, gpu_share],
            [0.45, 1.0],
            color=LIMIT,
            linewidth=1.6,
            linestyle="--",
            clip_on=False,
        )
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.008, 0.5), ncols=4, frameon=False, handlelength=1.0, handleheight=1.0,
        columnspacing=1.6, fontsize=8.5,
    )  # fmt: skip


def plan(axes: Axes, view: PlanView) -> None:
    """Draw the memory and the cost of each plan as bars side by side."""
    rows = [row for row in view.rows if row.label != "smallest that runs"]
    axes.set(xlim=(0, 1), ylim=(len(rows) + 0.15, -0.75))
    axes.axis("off")
    needed = _width_of_one(view.budget_bytes, *(row.device_bytes for row in rows))
    costs = _width_of_one(*(row.cost for row in rows))
    axes.text(0.135, -0.45, "needed: context + peak + slack + band", color=SOFT, size=8.5)
    axes.text(0.60, -0.45, view.cost_name, color=SOFT, size=8.5)
    for place, row in enumerate(rows):
        _plan_row(axes, place, view, row, (needed, costs))
    limit = 0.135 + view.budget_bytes * needed
    axes.plot([limit, limit], [-0.15, len(rows) - 0.05], color=LIMIT, linewidth=1.4)
    axes.text(
        limit + 0.005,
        -0.45,
        f"budget {format_bytes(view.budget_bytes)}",
        color=LIMIT,
        size=8.5,
        weight="bold",
    )


def _width_of_one(*sizes: float) -> float:
    """Return the width of one unit, so that the largest of `sizes` takes a quarter of the axes."""
    return 0.25 / (max(sizes) or 1)


def _plan_row(
    axes: Axes, place: int, view: PlanView, row: PlanRow, scales: tuple[float, float]
) -> None:
    weight = "bold" if row.chosen else "normal"
    colour, ink = ("#4477AA", "white") if row.chosen else ("#c3ccd4", "#1d1f21")
    middle = place + 0.4
    axes.text(0.0, middle, row.label, va="center", weight=weight)
    bars = (
        (0.135, scales[0], row.device_bytes, format_bytes(row.device_bytes)),
        (0.60, scales[1], row.cost, cost_words(view, row.cost)),
    )
    for start, scale, size, words in bars:
        axes.barh(middle, size * scale, 0.58, left=start, color=colour, linewidth=0)
        axes.text(
            start + 0.006,
            middle,
            words,
            va="center",
            size=8.5,
            weight=weight,
            color=ink,
        )
