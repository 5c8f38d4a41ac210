"""Pipelines without weights: the ones that are known, and building them from configuration alone.

Reading the catalogue imports neither torch nor diffusers; the names that need them are loaded on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from profiler.pipelines.catalogue import Entry, Part, catalogue

if TYPE_CHECKING:
    from profiler.pipelines.loading import describe, load_pipeline
    from profiler.pipelines.tokenizers import StandInTokenizer, stand_ins

__all__ = [
    "Entry",
    "Part",
    "StandInTokenizer",
    "catalogue",
    "describe",
    "load_pipeline",
    "stand_ins",
]

_HOMES = {
    "StandInTokenizer": "tokenizers",
    "describe": "loading",
    "load_pipeline": "loading",
    "stand_ins": "tokenizers",
}


def __getattr__(name: str) -> object:
    """Load a name that needs torch on first use, and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
