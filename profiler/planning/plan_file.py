"""The JSON file of a plan: written whole or not at all, and read without trust."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from profiler.atomic import write_text
from profiler.checking.given import file_of
from profiler.checking.typed_reading import read
from profiler.errors import InputError
from profiler.planning.plan import SCHEMA_VERSION, Plan
from profiler.planning.plan_words import check_plan

if TYPE_CHECKING:
    import os

_KIND = "vram-profiler plan"


def save(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write `plan` to `path`, as `Plan.save` does."""
    record = {"kind": _KIND, **plan.plain()}
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def load(path: str | os.PathLike[str]) -> Plan:
    """Return the plan in `path`, as `Plan.load` does."""
    try:
        record = json.loads(file_of(path, to="Plan.load()").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a plan: it is not JSON; `vram plan` writes one") from error
    if not isinstance(record, dict) or record.get("kind") != _KIND:
        raise InputError(f"{path} is not a plan; `vram plan -o plan.json` writes one")
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has plan version {version!r}, this program reads up to {SCHEMA_VERSION}: "
            "update vram-profiler"
        )
    try:
        plan: Plan = read(Plan, record)
        check_plan(plan)
    except ValueError as error:
        raise InputError(f"{path} is a damaged plan ({error}); plan again") from error
    return plan
