"""Reports of profiles and plans: a page, a picture, text for the terminal. They only read records.

Each name loads the module that defines it on first use, so that text in a terminal never waits for matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import profiler

if not hasattr(profiler, "__path__"):
    raise ImportError(
        f"{profiler.__file__} is imported in place of the package profiler: rename it, and see vram doctor"
    )

if TYPE_CHECKING:
    from reports.html import render_html, write_html
    from reports.png import render_png, write_png
    from reports.text import render_text

__all__ = ["render_html", "render_png", "render_text", "write_html", "write_png"]

_HOMES = {
    "render_html": "reports.html",
    "render_png": "reports.png",
    "render_text": "reports.text",
    "write_html": "reports.html",
    "write_png": "reports.png",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use, and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found
