"""What must be true of the files that `benchmarks/gpu/*.py` and `vram calibrate` write on the stand-in.

Bytes are equal to the byte there, since predictions are made without what only a GPU knows. Of seconds it is asked
alone that they are numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXACT = ("allocated", "reserved", "context", "pinned")  # of a validation


def read(path: Path) -> dict[str, Any]:
    """Return a record.

    Raises:
        ValueError: it is no JSON: cut off, or with a number that JSON does not know.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{path.name} holds {word}")

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return found


def failed_cases(record: dict[str, Any]) -> Iterator[str]:
    """Yield the cases of a record that did not run, and say so if there are none."""
    if not record["cases"]:
        yield "there are no cases"
    for name, entry in record["cases"].items():
        if "failed" in entry:
            yield f"{name} failed: {entry['failed']}"


def of_validation(path: Path) -> Iterator[str]:
    """Yield what is measured otherwise than predicted, and promises that did not hold."""
    record = read(path)
    yield from failed_cases(record)
    for name, entry in record["cases"].items():
        errors = entry.get("errors", {"equal": {}, **dict.fromkeys(EXACT)})
        off = [key for key in EXACT if errors[key]]
        off += [key for key, same in errors["equal"].items() if not same]
        off += [f"peak of {key}" for key, error in errors.get("phases", {}).items() if error]
        if off:
            yield f"{name}: other than predicted: {', '.join(off)}"
        if not entry.get("measured", {}).get("held", {"fits": True})["fits"]:
            yield f"{name}: the promise did not hold"


def of_plans(path: Path) -> Iterator[str]:
    """Yield the cases that did not get through under their budget."""
    record = read(path)
    yield from failed_cases(record)
    for name, entry in record["cases"].items():
        if "measured" in entry and not entry["measured"]["fits"]:
            yield f"{name}: {entry['measured']['error']}"


def of_failures(path: Path) -> Iterator[str]:
    """Yield the claims that do not hold of every failure."""
    record = read(path)
    yield from failed_cases(record)
    summary = record["summary"]
    for claim, count in summary.items():
        if count != summary["cases"]:
            yield f"{claim}: {count} of {summary['cases']}"


def of_overhead(path: Path) -> Iterator[str]:
    """Yield the modes in which the tracer takes memory of the GPU."""
    record = read(path)
    yield from failed_cases(record)
    for name, entry in record["cases"].items():
        taken = {key: value for key, value in entry.items() if key.startswith("device_") and value}
        if taken:
            yield f"{name}: the tracer takes {taken}"


def of_calibration(path: Path) -> Iterator[str]:
    """Yield what a table lacks."""
    from profiler.gpus.calibration_table import load

    table = load(path)
    yield from (f"{name}: {why}" for name, why in table.failed.items())
    if len(table.kernels) < 20:
        yield f"{len(table.kernels)} operators"
    seconds = {name: cost.seconds for name, cost in table.kernels.items()}
    seconds |= {f"copy of {copy.bytes} bytes, {copy.way}": copy.seconds for copy in table.copies}
    seconds["launch"] = table.launch_seconds
    yield from (f"{name}: {one} s" for name, one in seconds.items() if not _is_duration(one))
    yield from (
        f"context {name}: {one} bytes" for name, one in table.context_bytes.items() if one <= 0
    )


def _is_duration(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0
