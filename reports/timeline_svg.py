"""The timeline as SVG: components on the GPU, transfers, and memory, over one axis.

Colours of text, lines and backgrounds are CSS variables of the page, so that the figure follows light and dark mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from profiler.units import GIB, format_bytes, format_seconds
from reports import curves, story, svg
from reports.palette import OTHER, component_colours
from reports.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile
    from reports.timeline import Segment, Timeline
    from reports.timeline_columns import Column

WIDTH = 1040
LEFT, RIGHT = 168.0, 958.0
HEADER = 44.0
LANE, LANE_GAP = 20.0, 7.0
BUSY = 0.14  # least share of a lane that a component fills while it runs
MEMORY_HEIGHT = 250.0
HOST_GAP, HOST_HEIGHT = 30.0, 84.0
FOOTER = 44.0


@dataclass(frozen=True)
class Layout:
    """The data to draw, and the position of each panel (pixels from the top)."""

    profile: Profile
    picture: Timeline
    colours: dict[str, str]

    @cached_property
    def x(self) -> svg.Scale:
        """The scale of positions."""
        return svg.Scale(0.0, 1.0, LEFT, RIGHT)

    @cached_property
    def memory_top(self) -> float:
        """The top of the memory panel."""
        rows = len(self.profile.components) + 2
        return HEADER + rows * (LANE + LANE_GAP) + 30.0

    @cached_property
    def top_bytes(self) -> int:
        """The highest value of the memory axis."""
        return curves.top_bytes(self.profile)

    @cached_property
    def y(self) -> svg.Scale:
        """The scale of bytes in the memory panel."""
        return svg.Scale(0.0, float(self.top_bytes), self.memory_bottom, self.memory_top)

    @cached_property
    def height(self) -> float:
        """The height of the whole figure."""
        return self.bottom + FOOTER

    @cached_property
    def bottom(self) -> float:
        """The bottom of the lowest panel: of host memory if the profile records it, else of GPU memory."""
        return self.memory_bottom + (HOST_GAP + HOST_HEIGHT if self.host_top_bytes else 0.0)

    @cached_property
    def memory_bottom(self) -> float:
        """The bottom of the memory panel."""
        return self.memory_top + MEMORY_HEIGHT

    @cached_property
    def host_top_bytes(self) -> int:
        """The highest value of the axis of host memory."""
        return curves.host_top_bytes(self.profile)

    @cached_property
    def host_y(self) -> svg.Scale:
        """The scale of bytes in the panel of host memory."""
        return svg.Scale(
            0.0, float(self.host_top_bytes), self.bottom, self.memory_bottom + HOST_GAP
        )

    def row(self, index: int) -> float:
        """Return the top of lane `index`; the two lanes of transfers follow the components."""
        return HEADER + index * (LANE + LANE_GAP)

    def transfer_row(self, offset: int) -> float:
        """Return the top of the lane of uploads (0) or downloads (1)."""
        return self.row(len(self.profile.components) + offset) + 8


def timeline_svg(profile: Profile) -> str:
    """Return the figure; "" for a profile without events."""
    picture = timeline(profile)
    if not picture.columns:
        return ""
    layout = Layout(profile, picture, component_colours(profile))
    parts = [
        _DEFINITIONS,
        *_phases(layout),
        *_lanes(layout),
        *_transfers(layout),
        *_memory(layout),
        *_host(layout),
        *_folds(layout),
        *_transfer_labels(layout),
        *_peak(layout),
        *_seconds(layout),
        svg.line(0, HEADER, 0, layout.bottom, class_="crosshair", visibility="hidden"),
    ]
    return svg.element(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {WIDTH} {layout.height:.0f}",
        class_="timeline",
        role="img",
        aria_label="Components on the GPU, transfers and memory over the run",
    )


_DEFINITIONS = (
    '<defs><pattern id="fold" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.2" height="6" class="hatch"/></pattern></defs>'
)


def _phases(layout: Layout) -> Iterator[str]:
    """Yield the phase names above the figure, the step numbers below them, and a line between segments."""
    bottom = layout.bottom
    for index, (_, group) in enumerate(
        groupby(layout.picture.segments, key=lambda s: (s.call, s.phase))
    ):
        segments = list(group)
        start, end = layout.x.at(segments[0].start), layout.x.at(segments[-1].end)
        if index % 2:
            yield svg.rectangle(
                start, HEADER - 6, end - start, bottom - HEADER + 6, class_="stripe"
            )
        yield svg.line(start + 1, 16, end - 1, 16, class_="bracket")
        if end - start > 7 * len(segments[0].phase):
            yield svg.text(
                (start + end) / 2, 11, segments[0].phase, class_="phase", text_anchor="middle"
            )
        for segment in segments:
            yield from _step_label(layout, segment)
        yield svg.line(start, HEADER - 6, start, bottom, class_="rule strong")


def _step_label(layout: Layout, segment: Segment) -> Iterator[str]:
    if segment.step < 0:
        return
    start, end = layout.x.at(segment.start), layout.x.at(segment.end)
    label = f"step {segment.step + 1}" if end - start > 40 else str(segment.step + 1)
    if segment.folded_steps:
        label = f"and {segment.folded_steps} more"
    if end - start > 6 * len(label):
        yield svg.text((start + end) / 2, 30, label, class_="tick", text_anchor="middle")
    yield svg.line(start, HEADER - 6, start, layout.bottom, class_="rule")


def _lanes(layout: Layout) -> Iterator[str]:
    """Yield one lane for each component: a bar as high as its share on the GPU, in full colour while it runs."""
    columns = layout.picture.columns
    for row, index in enumerate(layout.picture.order):
        part = layout.profile.components[index]
        top = layout.row(row)
        share = svg.Scale(
            0.0, curves.fullest(columns, index, part.allocated_bytes), top + LANE, top
        )
        colour = layout.colours[part.name]
        yield svg.text(0, top + 14, _fitted(part.name), class_="lane")
        yield svg.text(
            LEFT - 12, top + 14, format_bytes(part.bytes), class_="tick", text_anchor="end"
        )
        yield svg.rectangle(LEFT, top, RIGHT - LEFT, LANE, class_="track")
        yield svg.band(curves.held(columns, index), layout.x, share, fill=colour, fill_opacity=0.42)
        yield svg.band(
            curves.busy(columns, index, part.name, BUSY * share.high), layout.x, share, fill=colour
        )


def _fitted(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _transfers(layout: Layout) -> Iterator[str]:
    totals = layout.profile.totals
    rows = (("to the GPU ↑", totals.h2d_bytes), ("to the CPU ↓", totals.d2h_bytes))
    for offset, (label, total) in enumerate(rows):
        top = layout.transfer_row(offset)
        yield svg.text(0, top + 14, label, class_="lane muted")
        yield svg.text(LEFT - 12, top + 14, format_bytes(total), class_="tick", text_anchor="end")
        yield svg.line(LEFT, top + LANE, RIGHT, top + LANE, class_="rule strong")
    for column, top, _ in _moves(layout):
        start, end = layout.x.at(column.start), layout.x.at(column.end)
        colour = layout.colours.get(column.moving, OTHER)
        yield svg.rectangle(start, top + 2, max(end - start, 1.5), LANE - 2, fill=colour, rx=1.5)


def _transfer_labels(layout: Layout) -> Iterator[str]:
    """Yield the size of each move that is wide enough to hold it."""
    for column, top, moved in _moves(layout):
        start, end = layout.x.at(column.start), layout.x.at(column.end)
        label = format_bytes(moved)
        if end - start > 6.5 * len(label):
            yield svg.text(
                (start + end) / 2, top + 15, label, class_="inside", text_anchor="middle"
            )


def _moves(layout: Layout) -> Iterator[tuple[Column, float, int]]:
    for column in layout.picture.columns:
        for offset, moved in enumerate((column.h2d_bytes, column.d2h_bytes)):
            if moved:
                yield column, layout.transfer_row(offset), moved


def _memory(layout: Layout) -> Iterator[str]:
    """Yield the memory panel: weights by component, the rest on top, reserved as a line, the capacity as a limit."""
    yield svg.text(0, layout.memory_top - 8, "memory on the GPU", class_="lane muted")
    for value in curves.ticks(layout.top_bytes):
        y = layout.y.at(value)
        yield svg.line(LEFT, y, RIGHT, y, class_="grid")
        yield svg.text(LEFT - 12, y + 4, f"{value / GIB:g} GiB", class_="tick", text_anchor="end")
    columns, names = layout.picture.columns, [part.name for part in layout.profile.components]
    for name, slices in zip(names, curves.stacked(columns, len(names)), strict=True):
        yield svg.band(slices, layout.x, layout.y, fill=layout.colours[name], fill_opacity=0.8)
    yield svg.band(curves.rest(columns), layout.x, layout.y, class_="rest")
    yield svg.polyline(curves.reserved(columns), layout.x, layout.y, class_="reserved")
    yield from _limit(layout)


def _host(layout: Layout) -> Iterator[str]:
    """Yield the panel of host memory: pinned at the bottom, pageable on top of it."""
    if not layout.host_top_bytes:
        return
    top = layout.memory_bottom + HOST_GAP
    yield svg.text(0, top + 4, "host memory", class_="lane muted")
    for value in curves.ticks(layout.host_top_bytes, 4)[1:]:
        y = layout.host_y.at(value)
        yield svg.line(LEFT, y, RIGHT, y, class_="grid")
        yield svg.text(LEFT - 12, y + 4, f"{value / GIB:g} GiB", class_="tick", text_anchor="end")
    pinned, pageable = curves.host(layout.picture.columns)
    yield svg.band(pageable, layout.x, layout.host_y, class_="pageable")
    yield svg.band(pinned, layout.x, layout.host_y, class_="pinned")
    yield svg.line(LEFT, layout.bottom, RIGHT, layout.bottom, class_="rule strong")
    totals = layout.profile.totals
    yield svg.text(
        RIGHT + 6,
        layout.host_y.at(totals.host_peak_bytes) + 4,
        format_bytes(totals.host_peak_bytes),
        class_="tick",
    )
    label = story.pinned_words(layout.profile)
    if label:
        y = layout.host_y.at(totals.host_pinned_bytes)
        apart = layout.host_y.at(totals.host_peak_bytes) + 14
        yield svg.text(RIGHT + 6, max(y + 4, apart + 4), label, class_="tick")


def _limit(layout: Layout) -> Iterator[str]:
    """Yield the GPU's capacity, and the part of it that the context takes."""
    gpu = layout.profile.gpu
    label = f"{format_bytes(gpu.capacity_bytes)} GPU"
    if gpu.capacity_bytes > layout.top_bytes:
        yield svg.text(
            RIGHT,
            layout.memory_top + 12,
            f"{label}, above ↑",
            class_="limit-label",
            text_anchor="end",
        )
        return
    top, low = layout.y.at(gpu.capacity_bytes), layout.y.at(gpu.capacity_bytes - gpu.context_bytes)
    yield svg.rectangle(LEFT, top, RIGHT - LEFT, low - top, class_="context")
    yield svg.line(LEFT, top, RIGHT, top, class_="limit")
    yield svg.text(RIGHT + 6, top + 4, label, class_="limit-label")
    if low - top > 9:
        yield svg.text(LEFT + 6, low - 3, "CUDA context", class_="tick")


def _peak(layout: Layout) -> Iterator[str]:
    position, peak_bytes = curves.peak_point(layout.picture.columns)
    x, y = layout.x.at(position), layout.y.at(peak_bytes)
    side = "end" if x > (LEFT + RIGHT) / 2 else "start"
    yield svg.element("circle", cx=x, cy=y, r=4, class_="peak")
    label = f"peak {format_bytes(peak_bytes)}"
    yield svg.text(
        x - 9 if side == "end" else x + 9, y - 7, label, class_="peak-label", text_anchor=side
    )


def _folds(layout: Layout) -> Iterator[str]:
    for segment in layout.picture.segments:
        if segment.folded_steps:
            start, end = layout.x.at(segment.start), layout.x.at(segment.end)
            height = layout.bottom - HEADER
            yield svg.rectangle(start, HEADER, end - start, height, fill="url(#fold)")


def _seconds(layout: Layout) -> Iterator[str]:
    """Yield the clock below the figure, at the borders of phases and folds."""
    y = layout.bottom + 16
    last_x = LEFT - 60
    marks = [(s.start, s.start_seconds) for s in layout.picture.segments]
    marks.append((1.0, layout.picture.seconds))
    for position, seconds in marks:
        x = layout.x.at(position)
        if x - last_x >= 46 and (RIGHT - x > 40 or position >= 1.0):
            yield svg.text(x, y, format_seconds(seconds), class_="tick", text_anchor="middle")
            last_x = x
    note = "Clock of the run; the axis is stretched where things move. Equal steps are drawn once."
    yield svg.text(LEFT, y + 20, note, class_="tick")
