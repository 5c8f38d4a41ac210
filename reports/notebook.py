"""Displays of a profile: one line at a prompt, a small panel in a notebook.

The panel inherits the notebook's colours, so that it is readable on light and on dark; greys are translucent.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from profiler.checking import plain_text
from profiler.findings import findings
from profiler.record import moments
from profiler.record import readings as reading
from profiler.record.verdict import verdict
from profiler.units import format_band, format_bytes, format_range, format_seconds

if TYPE_CHECKING:
    from profiler.record.profile import Profile

_SOFT = "opacity:.68"
_CELL = "text-align:left;padding:3px 18px 3px 0;border:0;background:none"
_NUMBER = "text-align:right;padding:3px 18px 3px 0;border:0;background:none;font-variant-numeric:tabular-nums"
_TRACK = "height:8px;width:200px;background:rgba(128,128,128,.2);border-radius:3px;overflow:hidden"
_DOTS = {"fits": "#1a9e5c", "tight": "#d08a00", "does not fit": "#d6453b"}
_BLUE = "#4477AA"  # of the reports' denoiser


def one_line(profile: Profile) -> str:
    """Return the profile as one line."""
    totals = profile.totals
    name = plain_text.one_line(profile.model or profile.pipeline_class)
    state = "" if profile.complete else ", incomplete"
    run = "".join(f", {phrase}" for phrase in reading.run_phrases(profile))
    return (
        f"<Profile {name}, {profile.mode}{plain_text.one_line(run)}, {profile.source} for "
        f"{plain_text.one_line(profile.gpu.name)}: "
        f"peak {format_bytes(totals.peak_allocated_bytes)}, on the GPU {format_bytes(totals.device_bytes)}, "
        f"{len(profile.events)} events{state}>"
    )


def notebook_html(profile: Profile) -> str:
    """Return the profile as a small panel: the answer, the figures, the peak of each phase, the first finding."""
    parts = [_heading(profile), _figures(profile), _phases(profile), _advice(profile)]
    return f'<div style="max-width:760px;line-height:1.5">{"".join(parts)}</div>'


def _heading(profile: Profile) -> str:
    answer = verdict(profile).answer
    dot = f"display:inline-block;width:10px;height:10px;border-radius:50%;background:{_DOTS.get(answer, '#888')}"
    name = escape(profile.model or profile.pipeline_class)
    where = f"{format_bytes(profile.gpu.capacity_bytes)} {escape(profile.gpu.name)}"
    band = format_band(profile.error_band, profile.error_band_below)
    sure = f", error band {band}" if profile.error_band else ""
    run = escape("".join(f", {phrase}" for phrase in reading.run_phrases(profile)))
    return (
        f'<div style="font-size:1.15em;font-weight:600"><span style="{dot};margin-right:8px"></span>'
        f"{answer.capitalize()}: {name}, {escape(profile.mode)}{run}</div>"
        f'<div style="{_SOFT};margin-bottom:10px">{escape(profile.source)} for {where}{sure}</div>'
    )


def _time(profile: Profile) -> str:
    likely = format_range(profile.totals.seconds, profile.seconds_band, profile.seconds_band_below)
    return format_seconds(profile.totals.seconds) + (f" ({likely})" if likely else "")


def _figures(profile: Profile) -> str:
    totals = profile.totals
    shown = (
        ("peak allocated", format_bytes(totals.peak_allocated_bytes)),
        ("on the GPU", format_bytes(totals.device_bytes)),
        ("to the GPU", format_bytes(totals.h2d_bytes)),
        ("to the CPU", format_bytes(totals.d2h_bytes)),
        ("time", _time(profile)),
    )
    cells = "".join(
        f'<div><div style="{_SOFT};font-size:.9em">{label}</div>'
        f'<div style="font-size:1.2em;font-weight:600">{value}</div></div>'
        for label, value in shown
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:6px 32px;margin-bottom:10px">{cells}</div>'


def _phases(profile: Profile) -> str:
    worst = moments.phase_peaks(profile)
    whole = max(profile.gpu.capacity_bytes, profile.totals.peak_allocated_bytes, 1)
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL}">{escape(name)}</td>'
        f'<td style="{_CELL}"><div style="{_TRACK}"><div style="height:100%;background:{_BLUE};'
        f'width:{100 * tally.peak_allocated_bytes / whole:.1f}%"></div></div></td>'
        f'<td style="{_NUMBER}">{format_bytes(tally.peak_allocated_bytes)}</td>'
        f'<td style="{_CELL};{_SOFT}">{escape(worst[name].component)}</td></tr>'
        for name, tally in reading.phases(profile)
    )
    return f'<table style="border-collapse:collapse;margin:0 0 8px 0">{rows}</table>'


def _advice(profile: Profile) -> str:
    found = findings(profile)
    if not found:
        return ""
    first = found[0]
    more = (
        f' <span style="{_SOFT}">and {len(found) - 1} more findings</span>'
        if len(found) > 1
        else ""
    )
    why = "<br>" if profile.complete else f'<div style="{_SOFT}">{escape(first.detail)}</div>'
    return f"<div>{escape(first.title)}{more}{why}<code>{escape(first.fix)}</code></div>"
