"""Pipelines without weights: which ones there are, and how they are built from configuration alone.

Looking into the catalogue imports neither torch nor diffusers; the names that need them load on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from profiler.pipelines.catalogue import Entry, Part, catalogue
from profiler.pipelines.tokenizers import StandInTokenizer, stand_ins

if TYPE_CHECKING:
    from profiler.pipelines.loading import describe, load_pipeline

__all__ = [
    "Entry",
    "Part",
    "StandInTokenizer",
    "catalogue",
    "describe",
    "load_pipeline",
    "stand_ins",
]


def __getattr__(name: str) -> object:
    """Load what needs torch on first use, and keep it."""
    if name not in {"describe", "load_pipeline"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module("profiler.pipelines.loading"), name)
    globals()[name] = found
    return found
