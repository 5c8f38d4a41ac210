"""The peak of every denoise step, as bars and as rows with equal steps collapsed."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from profiler.record import readings as reading
from profiler.units import format_bytes
from reports import svg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile

WIDTH, HEIGHT = 1040, 120
LEFT, RIGHT, TOP, BOTTOM = 168.0, 958.0, 14.0, 96.0
WIDEST_BAR = 34.0


class StepRun(NamedTuple):
    """Consecutive denoise steps with the same peak, transfers and resident components."""

    call: int
    first: int  # counted from 1
    last: int
    peak_bytes: int
    h2d_bytes: int  # of each step
    d2h_bytes: int
    seconds: float  # of each step, on average
    resident: tuple[str, ...]

    @property
    def label(self) -> str:
        """The label of the row: `step 1` or `steps 2 to 30`."""
        return (
            f"step {self.first}"
            if self.first == self.last
            else f"steps {self.first} to {self.last}"
        )


def step_runs(profile: Profile) -> list[StepRun]:
    """Return the denoise steps, with equal neighbours as one row."""

    def same(step: reading.Step) -> tuple[object, ...]:
        tally = step.tally
        return (
            step.call,
            format_bytes(tally.peak_allocated_bytes),
            tally.h2d_bytes,
            tally.d2h_bytes,
            step.resident,
        )

    runs = []
    for _, group in groupby(reading.steps(profile), key=same):
        steps = list(group)
        seconds = sum(step.tally.seconds for step in steps) / len(steps)
        first, tally = steps[0], steps[0].tally
        peak = max(step.tally.peak_allocated_bytes for step in steps)
        moved = (tally.h2d_bytes, tally.d2h_bytes)
        runs.append(
            StepRun(
                first.call,
                first.step + 1,
                steps[-1].step + 1,
                peak,
                *moved,
                seconds,
                first.resident,
            )
        )
    return runs


def steps_svg(profile: Profile) -> str:
    """Return the figure with one bar for each step; "" if there are none."""
    steps = reading.steps(profile)
    if not steps:
        return ""
    highest = max(step.tally.peak_allocated_bytes for step in steps)
    scale = svg.Scale(0.0, float(highest) * 1.08, BOTTOM, TOP)
    parts = [*_frame(scale, highest), *_bars(steps, scale)]
    label = "Highest allocated bytes of every denoise step"
    box = f"0 0 {WIDTH} {HEIGHT}"
    return svg.element(
        "svg", "".join(parts), viewBox=box, class_="steps", role="img", aria_label=label
    )


def _frame(scale: svg.Scale, highest: int) -> Iterator[str]:
    yield svg.text(0, (TOP + BOTTOM) / 2 + 4, "peak of each step", class_="lane muted")
    for value in (0, highest):
        y = scale.at(value)
        yield svg.line(LEFT, y, RIGHT, y, class_="grid")
        yield svg.text(LEFT - 12, y + 4, format_bytes(value), class_="tick", text_anchor="end")


def _bars(steps: list[reading.Step], scale: svg.Scale) -> Iterator[str]:
    pitch = min((RIGHT - LEFT) / len(steps), WIDEST_BAR)
    every = next(n for n in (1, 5, 10, 20, 50, 100, 1000) if len(steps) / n <= 24)
    for index, step in enumerate(steps):
        x, y = LEFT + index * pitch, scale.at(step.tally.peak_allocated_bytes)
        number = step.step + 1
        title = svg.element(
            "title", f"step {number}: {format_bytes(step.tally.peak_allocated_bytes)}"
        )
        width = max(pitch - 2.0, 0.8)
        bar = svg.rectangle(x, y, width, BOTTOM - y, class_="step-bar", rx=1)
        yield svg.element("g", title + bar)
        if number == 1 or number % every == 0:
            yield svg.text(
                x + width / 2, BOTTOM + 15, str(number), class_="tick", text_anchor="middle"
            )
