"""The record of a validation: one JSON file a GPU, with what was predicted and measured of each case, and the errors.

Nothing here needs a GPU or torch: the recorded results are read again by the tests.
"""

from __future__ import annotations

import statistics
from typing import Any

from case_record import Kind, error_of

RELATIVE = {
    "allocated": "peak_allocated_bytes",
    "reserved": "peak_reserved_bytes",
    "device": "device_bytes",
    "context": "context_bytes",
    "seconds": "steady_seconds",  # of the last call: the first loads kernels
    "pinned": "host_pinned_bytes",
}
EXACT = ("complete", "h2d_weight_bytes", "d2h_weight_bytes", "moves", "moves_sha256")


def errors_of(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the errors of a prediction: fractions of what was measured, and whether what must be equal is."""
    found: dict[str, Any] = {
        name: error_of(predicted.get(key), measured.get(key)) for name, key in RELATIVE.items()
    }
    phases = measured.get("phases", {})
    found["phases"] = {
        name: error_of(
            predicted.get("phases", {}).get(name, {}).get("peak_allocated_bytes"),
            phase["peak_allocated_bytes"],
        )
        for name, phase in phases.items()
    }
    found["equal"] = {key: predicted.get(key) == measured.get(key) for key in EXACT}
    return found


def summary_of(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return median and worst error of each figure, and how many cases ran, moved the same, and held their promise."""
    run = [case for case in cases if "errors" in case]
    found: dict[str, Any] = {"cases": len(cases), "run": len(run)}
    for name in RELATIVE:
        errors = [abs(case["errors"][name]) for case in run if case["errors"][name] is not None]
        found[name] = {
            "median": statistics.median(errors) if errors else None,
            "worst": max(errors, default=None),
        }
    held = [case["measured"]["held"]["fits"] for case in run if "held" in case["measured"]]
    found["same_moves"] = sum(case["errors"]["equal"]["moves_sha256"] for case in run)
    found["promised"], found["held"] = len(held), sum(held)
    return found


VALIDATION = Kind(
    name="vram-profiler validation",
    told="a validation",
    schema_version=1,
    file="validate.json",
    summary_of=summary_of,
)
load, save = VALIDATION.load, VALIDATION.save
