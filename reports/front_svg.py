"""The Pareto front of plans, from the least memory to the least cost, with the chosen plan and stock marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.units import GIB, format_bytes
from reports import svg
from reports.plan_view import cost_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reports.plan_view import PlanRow, PlanView

WIDTH, HEIGHT = 1040, 210
LEFT, RIGHT, TOP, BOTTOM = 96.0, 1000.0, 18.0, 166.0


class _Scales(NamedTuple):
    x: svg.Scale
    y: svg.Scale


def front_svg(view: PlanView) -> str:
    """Return the figure; "" if there is no choice to show."""
    if len(view.front) < 2:
        return ""
    rows = [row for row in view.rows if row.chosen or row.label == "as it is"]
    sizes = (
        [needed for needed, _ in view.front]
        + [row.device_bytes for row in rows]
        + [view.budget_bytes]
    )
    costs = [cost for _, cost in view.front] + [row.cost for row in rows]
    low, high = min(sizes), max(sizes)
    edge = (high - low) * 0.06 or GIB
    scales = _Scales(
        svg.Scale(low - edge, high + edge, LEFT, RIGHT),
        svg.Scale(0.0, max(costs) * 1.15 or 1.0, BOTTOM, TOP),
    )
    parts = [*_axes(scales, view, max(costs)), *_points(scales, view, rows)]
    label = f"Memory needed against {view.cost_name}"
    box = f"0 0 {WIDTH} {HEIGHT}"
    return svg.element(
        "svg", "".join(parts), viewBox=box, class_="front", role="img", aria_label=label
    )


def _axes(scales: _Scales, view: PlanView, most: float) -> Iterator[str]:
    for value in (0.0, most):
        y = scales.y.at(value)
        yield svg.line(LEFT, y, RIGHT, y, class_="grid")
        yield svg.text(LEFT - 10, y + 4, cost_words(view, value), class_="tick", text_anchor="end")
    yield svg.text(0, TOP - 4, view.cost_name, class_="muted")
    yield svg.text(RIGHT, BOTTOM + 38, "needed on the GPU →", class_="muted", text_anchor="end")
    x = scales.x.at(view.budget_bytes)
    yield svg.line(x, TOP, x, BOTTOM, class_="limit")
    side = "end" if x > (LEFT + RIGHT) / 2 else "start"
    label = f"budget {format_bytes(view.budget_bytes)}"
    yield svg.text(
        x - 6 if side == "end" else x + 6, TOP + 8, label, class_="limit-label", text_anchor=side
    )


def _points(scales: _Scales, view: PlanView, rows: list[PlanRow]) -> Iterator[str]:
    stairs: list[tuple[float, float]] = []
    for needed, cost in view.front:
        if stairs:
            stairs.append((float(needed), stairs[-1][1]))
        stairs.append((float(needed), cost))
    yield svg.polyline(stairs, scales.x, scales.y, class_="stairs")
    last_x = -100.0
    for needed, cost in view.front:
        x, y = scales.x.at(needed), scales.y.at(cost)
        title = svg.element(
            "title", f"needs {format_bytes(needed)}, {cost_words(view, cost)} per call"
        )
        yield svg.element("g", title + svg.element("circle", cx=x, cy=y, r=4, class_="choice"))
        if x - last_x > 56:
            yield svg.text(
                x, BOTTOM + 16, format_bytes(needed), class_="tick", text_anchor="middle"
            )
            last_x = x
    for row in rows:
        x, y = scales.x.at(row.device_bytes), scales.y.at(row.cost)
        name = "chosen" if row.chosen else "stock"
        yield svg.element("circle", cx=x, cy=y, r=6.5, class_=name)
        side = "end" if x > (LEFT + RIGHT) / 2 else "start"
        yield svg.text(
            x - 11 if side == "end" else x + 11,
            y - 8,
            row.label,
            class_="peak-label",
            text_anchor=side,
        )
