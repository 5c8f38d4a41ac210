"""Calibration tables: what operators, copies and the CUDA context took on a real GPU, and where the tables are kept.

`vram calibrate` writes a table; predictions for the same GPU read it. An operator that a table holds is charged its
measured cost; one that is missing from the table is charged by rule. Workspaces may come from another GPU of the same
compute capability; seconds, copy rates and the context only from a GPU of the same name.

Tables are kept in `profiler/data/calibration/` and in the user's own folder, which takes precedence:
`$VRAM_CALIBRATION` (a table, a folder, or empty for none), else `$XDG_DATA_HOME/vram/calibration`, by default
`~/.local/share/vram/calibration`. A table of a dry run is never used.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import InputError
from profiler.gpus.calibration_table import load

if TYPE_CHECKING:
    from profiler.gpus.calibration_table import Calibration, Fitted, KernelCost
    from profiler.gpus.hardware import GpuSpec

PLACE = "VRAM_CALIBRATION"


def knows(spec: GpuSpec) -> bool:
    """Tell whether any table applies to a GPU."""
    return bool(_tables_for(spec))


def kernel_cost(spec: GpuSpec, signature: str) -> KernelCost | None:
    """Return what a table of this very GPU holds for an operator, or None."""
    found = table_of(spec)
    return None if found is None else found.kernels.get(signature)


def workspace_bytes(spec: GpuSpec, signature: str) -> int | None:
    """Return the workspace measured for an operator on this GPU, or on one of its compute capability; else None."""
    for table in _tables_for(spec):
        if signature in table.kernels:
            return table.kernels[signature].workspace_bytes
    return None


def table_of(spec: GpuSpec) -> Calibration | None:
    """Return the table of this very GPU; the user's takes precedence over the packaged one."""
    return next((table for table in _tables_for(spec) if table.gpu == spec.name), None)


def source_of(spec: GpuSpec) -> str:
    """Return the words in which a prediction names the tables it used for a GPU."""
    tables = _tables_for(spec)
    return f"workspaces as in the table of {tables[0]}" if tables else "no table"


def as_measured(spec: GpuSpec, *, fitted: bool = True) -> GpuSpec:
    """Return the GPU with the context and copy rates of its own table; unchanged if it has none, or has them already.

    Args:
        spec: the GPU.
        fitted: whether what measured runs gave counts, too.
    """
    table = table_of(spec)
    source = f"measured: {table}"
    if table is None or source in spec.sources:
        return spec
    found = {
        "context_bytes": max(table.context_bytes.values(), default=None),
        "h2d_bytes_per_second": table.bytes_per_second("h2d", pinned=False),
        "d2h_bytes_per_second": table.bytes_per_second("d2h", pinned=False),
        "pinned_bytes_per_second": table.bytes_per_second("h2d", pinned=True),
    }
    known: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    measured = replace(spec, **known, sources=(*spec.sources, source))
    return measured if table.fitted is None or not fitted else with_fitted(measured, table.fitted)


def with_fitted(spec: GpuSpec, fitted: Fitted) -> GpuSpec:
    """Return the GPU with what measured runs on one machine gave; a time of a launch that was named stays."""
    cost = spec.cost
    launch_seconds = fitted.launch_seconds if cost.has_usual_launch else cost.launch_seconds
    return replace(
        spec,
        h2d_bytes_per_second=fitted.h2d_bytes_per_second,
        d2h_bytes_per_second=fitted.d2h_bytes_per_second,
        cost=cost.as_fitted(launch_seconds, fitted.kernels),
    )


def _tables_for(spec: GpuSpec) -> tuple[Calibration, ...]:
    """Return the tables that apply to a GPU, those of the same name first."""
    tables = _known_tables(spec.architecture, os.environ.get(PLACE))
    return tuple(sorted(tables, key=lambda table: table.gpu != spec.name))


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
    """Return the folder of the user's own tables, or the path that `$VRAM_CALIBRATION` names."""
    named = os.environ.get(PLACE)
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "vram" / "calibration"


def own_path(table: Calibration) -> Path:
    """Return where a table is kept: its file in the user's own folder, which is made, or the file named instead.

    Raises:
        InputError: if the folder cannot be made.
    """
    place = user_place()
    if place.suffix == ".toml":
        return place
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {place} ({error.strerror}): name a file with --output"
        ) from error
    return place / table.file_name


def forget() -> None:
    """Drop the cached tables, so that they are read again after one has been written."""
    _known_tables.cache_clear()
