"""Colours: one for each component, the same in every figure of a report.

Source of the component colours: Paul Tol's "bright" and "muted" qualitative schemes (Colour Schemes, SRON
technical note SRON/EPS/TN/09-002, issue 3.2), chosen to be told apart with any colour vision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.record.profile import Profile

SERIES = (
    "#4477AA",
    "#CCBB44",
    "#228833",
    "#AA3377",
    "#66CCEE",
    "#EE6677",
    "#999933",
    "#882255",
    "#44AA99",
    "#DDCC77",
)
OTHER_SHADES = {
    "activations": "#B4B2A9",
    "workspace": "#9D9B94",
    "unattributed": "#D3D1C9",
}  # warm greys
OTHER = "#8C8A83"
REST = "#CBC8C0"
PAGEABLE, PINNED = "#B9C2CA", "#5E7284"  # host memory: slate, light and dark
SOFT, RULE, LIMIT, TRACK = "#5F6368", "#E6E3DD", "#B3261E", "#F1EFEA"  # on white paper


def component_colours(profile: Profile) -> dict[str, str]:
    """Return a colour for each component: denoisers first, so that they look the same in every report."""
    names = [part.name for part in profile.components]
    ordered = [name for name in names if name in profile.denoisers]
    ordered += [name for name in names if name not in profile.denoisers]
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate(ordered)}
