"""The report as one self-contained HTML page: no network, no external scripts, light and dark."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from profiler.atomic import write_text
from profiler.record.profile import Profile
from profiler.record.verdict import verdict
from profiler.units import format_band, format_bytes, format_fraction, format_seconds
from reports import plan_view, story
from reports.front_svg import front_svg
from reports.palette import component_colours
from reports.steps_svg import step_runs, steps_svg
from reports.sum_bar import gpu_share, sum_pieces
from reports.timeline import timeline
from reports.timeline_svg import LEFT, RIGHT, WIDTH, timeline_svg

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import jinja2

    from profiler.planning.plan import Plan
    from reports.plan_view import VerifiedPlan


def write_html(
    path: str | os.PathLike[str],
    profiles: Profile | Sequence[Profile],
    *,
    plan: Plan | None = None,
    verification: VerifiedPlan | None = None,
) -> None:
    """Write the report of one profile, or of several side by side, to `path`.

    Args:
        path: The file to write, whole or not at all.
        profiles: One profile or several; the plan and its verification belong to the first.
        plan: A `Plan`, shown beside stock and its runner-up.
        verification: The result of `verify` for the plan.

    Raises:
        InputError: if `path` cannot be written, or the plan is of another pipeline.
    """
    write_text(path, render_html(profiles, plan=plan, verification=verification))


def render_html(
    profiles: Profile | Sequence[Profile],
    *,
    plan: Plan | None = None,
    verification: VerifiedPlan | None = None,
) -> str:
    """Return the page that `write_html` writes."""
    several = [profiles] if isinstance(profiles, Profile) else list(profiles)
    if plan is not None:
        plan_view.check_same(plan, several[0])
    pages = [_page(one, None if number else plan) for number, one in enumerate(several)]
    view = plan_view.plan_view(plan, verification) if plan is not None else None
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            pages=pages,
            title=pages[0]["title"],
            highest=max(profile.totals.device_bytes for profile in several),
            plan=view,
            needed=story.NEEDED,
            needed_note=story.NEEDED_NOTE,
            run=_figure(view.verification.profile) if view and view.verification else None,
            front=Markup(front_svg(view)) if view else "",  # noqa: S704  built by our own writer, which escapes
            style=Markup(_asset("report.css")),  # noqa: S704  our own files, inlined as they are
            script=Markup(_asset("report.js")),  # noqa: S704
        )
    )


def _page(profile: Profile, plan: Plan | None) -> dict[str, Any]:
    """Return the template's data of one profile, beside a plan if there is one."""
    return {
        "profile": profile,
        "title": story.title(profile),
        "gpu": story.short_gpu(profile),
        "answer": story.answer(profile, plan),
        "how_big": story.how_big(profile),
        "verdict": verdict(profile),
        "figures": story.figures(profile),
        "calls": story.call_texts(profile),
        "pieces": sum_pieces(profile),
        "gpu_share": gpu_share(profile),
        "breakdown": story.peak_breakdown(profile),
        "breakdown_title": story.breakdown_title(profile),
        "colours": component_colours(profile),
        **_figure(profile),
        "steps": Markup(steps_svg(profile)),  # noqa: S704
        "step_runs": step_runs(profile),
        "findings": story.reported_findings(profile, plan),
        "components": _component_rows(profile),
    }


def _figure(profile: Profile) -> dict[str, Markup]:
    """Return the timeline, and the data for its tooltips."""
    return {
        "timeline": Markup(timeline_svg(profile)),  # noqa: S704  built by our own writer, which escapes
        "hover": Markup(_hover(profile)),  # noqa: S704  JSON with "<" escaped
    }


def _component_rows(profile: Profile) -> list[dict[str, Any]]:
    frame = profile.frames.components
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _hover(profile: Profile) -> str:
    """Return the data for tooltips, as JSON that is safe inside a script element."""
    columns = [
        [
            round(column.start, 5),
            round(column.end, 5),
            format_seconds(column.seconds),
            column.what,
            column.phase if column.step < 0 else f"step {column.step + 1}",
            format_bytes(column.peak_bytes),
            format_bytes(column.reserved_bytes),
            [
                format_bytes(held) if held else ""
                for held in map(max, column.held_before, column.held_after)
            ],
            format_bytes(column.h2d_bytes) if column.h2d_bytes else "",
            format_bytes(column.d2h_bytes) if column.d2h_bytes else "",
            format_bytes(column.host_peak_bytes) if column.host_peak_bytes else "",
        ]
        for column in timeline(profile).columns
    ]
    colours = component_colours(profile)
    data = {
        "left": LEFT / WIDTH,
        "right": RIGHT / WIDTH,
        "components": [[part.name, colours[part.name]] for part in profile.components],
        "columns": columns,
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "size": format_bytes,
        "percent": format_fraction,
        "band": format_band,
        "clock": format_seconds,
    }
    return environment


def _asset(name: str) -> str:
    return files("reports").joinpath("templates", name).read_text(encoding="utf-8")
