"""Calibration tables: what operators, copies and the CUDA context took on a real card, and where the tables lie.

`vram calibrate` writes a table; predictions for the same card read it. An operator that a table holds is charged what
was measured, one that it lacks what the rule says. Workspaces may come from another card of the same compute
capability; seconds, copy rates and the context from a card of the same name only.

Tables lie in `profiler/data/calibration/` and in the user's own folder, which comes first: `$VRAM_CALIBRATION` (a
table, a folder, or empty for none), else `$XDG_DATA_HOME/vram/calibration`, by default
`~/.local/share/vram/calibration`. A table of a dry run is never used.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.gpus.calibration_table import load

if TYPE_CHECKING:
    from profiler.gpus.calibration_table import Calibration, KernelCost
    from profiler.gpus.hardware import Card

PLACE = "VRAM_CALIBRATION"


def knows(card: Card) -> bool:
    """Return whether any table says something about a card."""
    return bool(_tables_for(card))


def kernel_cost(card: Card, signature: str) -> KernelCost | None:
    """Return what a table of this very card holds for an operator, or None."""
    found = table_of(card)
    return None if found is None else found.kernels.get(signature)


def workspace_bytes(card: Card, signature: str) -> int | None:
    """Return the workspace measured for an operator on this card, or on one of its compute capability; else None."""
    for table in _tables_for(card):
        if signature in table.kernels:
            return table.kernels[signature].workspace_bytes
    return None


def table_of(card: Card) -> Calibration | None:
    """Return the table of this very card, the user's before the packaged one."""
    return next((table for table in _tables_for(card) if table.card == card.name), None)


def told(card: Card) -> str:
    """Return what a prediction says of the tables it used for a card."""
    tables = _tables_for(card)
    return f"workspaces as in the table of {tables[0]}" if tables else "no table"


def as_measured(card: Card) -> Card:
    """Return the card with the context and copy rates that its own table holds; the card itself without a table."""
    table = table_of(card)
    if table is None:
        return card
    found = {
        "context_bytes": max(table.context_bytes.values(), default=None),
        "h2d_bytes_per_second": table.bytes_per_second("h2d", pinned=False),
        "d2h_bytes_per_second": table.bytes_per_second("d2h", pinned=False),
        "pinned_bytes_per_second": table.bytes_per_second("h2d", pinned=True),
    }
    known: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    return replace(card, **known, sources=(*card.sources, f"measured: {table}"))


def _tables_for(card: Card) -> tuple[Calibration, ...]:
    """Return the tables that say something about a card, the most telling first."""
    tables = _known_tables(card.architecture, os.environ.get(PLACE))
    return tuple(sorted(tables, key=lambda table: table.card != card.name))


@cache
def _known_tables(architecture: str, place: str | None) -> tuple[Calibration, ...]:
    packaged = Path(str(resources.files("profiler") / "data" / "calibration"))
    own = user_place() if place != "" else None
    paths = [*_table_files(own, architecture), *_table_files(packaged, architecture)]
    tables = [load(path) for path in paths]
    return tuple(one for one in tables if not one.dry and one.architecture == architecture)


def _table_files(place: Path | None, architecture: str) -> list[Path]:
    if place is None:
        return []
    if place.is_file():
        return [place]
    return sorted(place.glob(f"{architecture}-*.toml"))


def user_place() -> Path:
    """Return the folder of the user's own tables, or the one table that `$VRAM_CALIBRATION` names."""
    named = os.environ.get(PLACE)
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "vram" / "calibration"


def forget() -> None:
    """Let the tables be read again, after one was written."""
    _known_tables.cache_clear()
