"""The timeline of the picture: phases, lanes and memory, each drawn into its own axes over one scale."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from profiler.units import GIB, format_bytes, format_seconds
from reports import curves, story
from reports.palette import LIMIT, OTHER, PAGEABLE, PINNED, REST, RULE, SOFT, TRACK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from profiler.record.profile import Profile
    from reports.timeline import Timeline
    from reports.timeline_columns import Column

CAPTION_INCHES = 0.33  # below the lowest panel and its clock
FILL = 0.76  # share of a lane's pitch that its bar takes


def phases(axes: Axes, picture: Timeline) -> None:
    """Draw the phase names and step numbers above the lanes, in axes of height 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    for _, group in groupby(picture.segments, key=lambda segment: (segment.call, segment.phase)):
        segments = list(group)
        start, end = segments[0].start, segments[-1].end
        axes.plot([start + 0.002, end - 0.002], [0.52, 0.52], color="#cdc9c1", linewidth=1.6)
        if end - start > 0.009 * len(segments[0].phase):
            axes.text((start + end) / 2, 0.66, segments[0].phase, ha="center", weight="bold")
        for segment in segments:
            label = (
                f"and {segment.folded_steps} more"
                if segment.folded_steps
                else f"{segment.step + 1}"
            )
            label = (
                f"step {label}"
                if not segment.folded_steps and segment.end - segment.start > 0.055
                else label
            )
            if segment.step >= 0 and segment.end - segment.start > 0.0085 * len(label):
                middle = (segment.start + segment.end) / 2
                axes.text(middle, 0.1, label, ha="center", color=SOFT, size=8)


def lanes(axes: Axes, profile: Profile, picture: Timeline, colours: dict[str, str]) -> None:
    """Draw one lane for each component and two for transfers, from the top down."""
    rows = len(picture.order) + 2
    axes.set(xlim=(0, 1), ylim=(rows, 0))
    axes.axis("off")
    for row, index in enumerate(picture.order):
        part = profile.components[index]
        floor = row + FILL
        whole = curves.fullest(picture.columns, index, part.allocated_bytes)
        axes.fill_between([0, 1], row, floor, color=TRACK, linewidth=0)
        for band, alpha in (
            (curves.held(picture.columns, index), 0.42),
            (curves.busy(picture.columns, index, part.name, 0.14 * whole), 1.0),
        ):
            positions = [edge.position for edge in band]
            tops = [floor - FILL * edge.high / whole for edge in band]
            axes.fill_between(
                positions, floor, tops, color=colours[part.name], alpha=alpha, linewidth=0
            )
        _label(axes, row, part.name, part.bytes)
    _transfers(axes, rows - 2, profile, picture.columns, colours)
    _rules(axes, picture)


def _label(axes: Axes, row: int, name: str, size: int) -> None:
    axes.text(-0.1954, row + 0.55, name, va="center", clip_on=False)
    axes.text(-0.012, row + 0.55, format_bytes(size), va="center", ha="right", color=SOFT, size=8.5)


def _transfers(
    axes: Axes, row: int, profile: Profile, columns: Sequence[Column], colours: dict[str, str]
) -> None:
    totals = profile.totals
    lines = (("to the GPU", totals.h2d_bytes), ("to the CPU", totals.d2h_bytes))
    for offset, (name, total) in enumerate(lines):
        top = row + offset + 0.2
        axes.plot([0, 1], [top + FILL, top + FILL], color="#cdc9c1", linewidth=0.8)
        _label(axes, row + offset, name, total)
        for column in columns:
            moved = column.d2h_bytes if offset else column.h2d_bytes
            if not moved:
                continue
            width = max(column.end - column.start, 0.0015)
            colour = colours.get(column.moving, OTHER)
            axes.barh(top + FILL / 2, width, FILL, left=column.start, color=colour, linewidth=0)
            if width > 0.0085 * len(format_bytes(moved)):
                middle = column.start + width / 2
                axes.text(
                    middle,
                    top + FILL / 2,
                    format_bytes(moved),
                    ha="center",
                    va="center",
                    color="white",
                    zorder=6,
                    size=7.5,
                )


def memory(axes: Axes, profile: Profile, picture: Timeline, colours: dict[str, str]) -> None:
    """Draw weights by component, everything else on top, reserved memory as a line, the GPU's capacity as a limit."""
    highest = curves.top_bytes(profile)
    axes.set(xlim=(0, 1), ylim=(0, highest), yticks=curves.ticks(highest))
    axes.set_yticklabels([f"{value / GIB:g} GiB" for value in curves.ticks(highest)])
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    stack = curves.stacked(picture.columns, len(profile.components))
    for part, band in zip(profile.components, stack, strict=True):
        _fill(axes, band, color=colours[part.name], alpha=0.8)
    _fill(axes, curves.rest(picture.columns), color=REST)
    corners = curves.reserved(picture.columns)
    axes.plot(*zip(*corners, strict=True), color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    _rules(axes, picture)
    _limit(axes, profile, highest)
    _peak(axes, picture.columns)
    axes.set_xticks([])


def host(axes: Axes, profile: Profile, picture: Timeline) -> None:
    """Draw host memory: pinned at the bottom, pageable on top of it."""
    highest = curves.host_top_bytes(profile)
    marks = curves.ticks(highest, 4)[1:]
    axes.set(xlim=(0, 1), ylim=(0, highest), yticks=marks, xticks=[])
    axes.set_yticklabels([f"{value / GIB:g} GiB" for value in marks])
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    pinned, pageable = curves.host(picture.columns)
    _fill(axes, pageable, color=PAGEABLE)
    _fill(axes, pinned, color=PINNED)
    _rules(axes, picture)
    totals = profile.totals
    axes.text(-0.1954, highest, "host memory", va="top", color=SOFT, clip_on=False)
    high = totals.host_peak_bytes
    axes.text(1.008, high, format_bytes(high), color=SOFT, va="center", size=8.5)
    label = story.pinned_words(profile)
    if label:
        low = min(totals.host_pinned_bytes, high - 0.2 * highest)
        axes.text(1.008, low, label, color=PINNED, va="center", size=8.5)


def foot(axes: Axes, picture: Timeline) -> None:
    """Draw the clock below the lowest panel, and a caption that explains the marks of all panels."""
    _clock(axes, picture)
    height_inches = axes.bbox.height / axes.figure.dpi
    _caption(axes, picture, -CAPTION_INCHES / height_inches)


def _fill(axes: Axes, band: list[curves.Band], **style: Any) -> None:
    positions = [edge.position for edge in band]
    lows, highs = [edge.low for edge in band], [edge.high for edge in band]
    axes.fill_between(positions, lows, highs, linewidth=0, **style)


def _limit(axes: Axes, profile: Profile, highest: int) -> None:
    gpu = profile.gpu
    label = f"{format_bytes(gpu.capacity_bytes)} GPU"
    if gpu.capacity_bytes > highest:
        axes.text(
            1.0,
            highest * 0.97,
            f"{label}, above ↑",
            color=LIMIT,
            weight="bold",
            ha="right",
            va="top",
        )
        return
    axes.axhspan(
        gpu.capacity_bytes - gpu.context_bytes,
        gpu.capacity_bytes,
        color=LIMIT,
        alpha=0.09,
        linewidth=0,
    )
    axes.axhline(gpu.capacity_bytes, color=LIMIT, linewidth=1.4)
    axes.text(1.008, gpu.capacity_bytes, label, color=LIMIT, weight="bold", va="center", size=9)
    axes.text(
        0.006, gpu.capacity_bytes - gpu.context_bytes, "CUDA context", color=SOFT, size=8, va="top"
    )


def _peak(axes: Axes, columns: Sequence[Column]) -> None:
    x, peak_bytes = curves.peak_point(columns)
    axes.plot([x], [peak_bytes], "o", color="#1d1f21", markersize=5, zorder=5, clip_on=False)
    right = x > 0.5
    axes.annotate(
        f"peak {format_bytes(peak_bytes)}",
        (x, peak_bytes),
        xytext=(-8 if right else 8, 6),
        textcoords="offset points",
        ha="right" if right else "left",
        weight="bold",
        zorder=6,
    )


def _rules(axes: Axes, picture: Timeline) -> None:
    for before, segment in zip((None, *picture.segments), picture.segments, strict=False):
        strong = before is None or (before.call, before.phase) != (segment.call, segment.phase)
        axes.axvline(segment.start, color="#cdc9c1" if strong else RULE, linewidth=0.8, zorder=0.5)
        if segment.folded_steps:
            axes.axvspan(
                segment.start,
                segment.end,
                fill=False,
                hatch="////",
                edgecolor="white",
                linewidth=0,
                zorder=4,
            )


def _caption(axes: Axes, picture: Timeline, y: float) -> None:
    """Draw the caption that explains the marks, at height `y` of the axes."""
    words = ["grey: everything but weights, at its highest", "dashed: reserved by PyTorch"]
    if any(segment.folded_steps for segment in picture.segments):
        words.append("hatched: equal steps, drawn once")
    words.append("clock of the run, stretched where things move")
    axes.text(0.0, y, "   ".join(words), transform=axes.transAxes, color=SOFT, size=8)


def _clock(axes: Axes, picture: Timeline) -> None:
    marks = [(segment.start, segment.start_seconds) for segment in picture.segments]
    shown: list[tuple[float, float]] = []
    for position, seconds in marks:
        if (not shown or position - shown[-1][0] > 0.055) and position < 0.95:
            shown.append((position, seconds))
    shown.append((1.0, picture.seconds))
    axes.set_xticks(
        [position for position, _ in shown], [format_seconds(seconds) for _, seconds in shown]
    )
