"""`vram list`: models, GPUs and placements by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from profiler.cli import printing
from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = list[dict[str, Any]]


def list_known(
    what: Annotated[str, typer.Argument(metavar="[models|gpus|plans]")] = "models",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the models that can be built by name, the GPUs, or the ways to place a pipeline.

    Example: vram list gpus
    """
    if what not in _LISTS:
        raise InputError(f"cannot list {what!r}: choose one of {', '.join(_LISTS)}")
    rows = _LISTS[what]()
    if as_json:
        printing.answer_json({"schema_version": 1, what: rows})
    else:
        printing.answer_table(rows, columns=_COLUMNS[what], headings=_HEADINGS)


def _models() -> Rows:
    from profiler.pipelines.catalogue import catalogue

    return [
        {
            "name": entry.name,
            "pipeline": entry.pipeline_class,
            "dtype": entry.dtype,
            "hub id": entry.hub,
            "about": entry.about,
        }
        for entry in catalogue().values()
    ]


def _gpus() -> Rows:
    from profiler.gpus.hardware import gpu_specs
    from profiler.units import format_bytes

    return [
        {
            "key": one.key,
            "name": one.name,
            "capacity_bytes": one.capacity_bytes,
            "capacity": format_bytes(one.capacity_bytes),
            "architecture": one.architecture,
            "link": one.link,
            "unified_memory": one.unified_memory,
        }
        for one in gpu_specs()
    ]


def _plans() -> Rows:
    return [
        {"mode": "resident", "what": "everything on the GPU", "call": 'pipe.to("cuda")'},
        {
            "mode": "model",
            "what": "one component on the GPU at a time; `vram plan` searches order and exclusions",
            "call": "pipe.enable_model_cpu_offload()",
        },
        {
            "mode": "sequential",
            "what": "one layer on the GPU at a time, the least memory and the longest wait",
            "call": "pipe.enable_sequential_cpu_offload()",
        },
        {
            "mode": "group-block",
            "what": "some blocks on the GPU at a time; --blocks, --stream",
            "call": 'pipe.enable_group_offload(..., offload_type="block_level")',
        },
        {
            "mode": "group-leaf",
            "what": "one layer on the GPU at a time, copied ahead with --stream",
            "call": 'pipe.enable_group_offload(..., offload_type="leaf_level")',
        },
    ]


_LISTS: dict[str, Callable[[], Rows]] = {"models": _models, "gpus": _gpus, "plans": _plans}
_COLUMNS = {
    "models": ("name", "dtype", "about"),
    "gpus": ("key", "capacity", "architecture", "link", "name"),
    "plans": ("mode", "what", "call"),
}
_HEADINGS = {"architecture": "arch"}  # narrower than the column's name
