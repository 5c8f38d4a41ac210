"""The record of measured plans: one JSON file a GPU, with what was predicted and measured of each way, and the ratios.

Nothing here needs a GPU or torch: the recorded results are read again by the tests.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from case_record import Kind, error_of
from plan_cases import FEW, MODEL_OFFLOAD, OURS

LIMIT_TO_BEST = 1.0
LIMIT_TO_MODEL_OFFLOAD = 0.7  # of image pipelines of few steps
COMPARED = {"device": "device_bytes", "seconds": "steady_seconds", "bytes": "weight_bytes"}


def errors_of(predicted: dict[str, Any] | None, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the errors of a prediction as fractions of what was measured, None where a side is not known."""
    known = predicted or {}
    return {name: error_of(known.get(key), measured.get(key)) for name, key in COMPARED.items()}


def ratios_of(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return our plan's seconds beside those of the best other way that fits and of model offload, by budget."""
    return [
        _ratios(model, budget, {case["way"]: _steady(case) for case in group})
        for (model, budget), group in groupby(
            cases, lambda case: (case["model"], case["budget_bytes"])
        )
    ]


def _ratios(model: str, budget_bytes: int, seconds: dict[str, float | None]) -> dict[str, Any]:
    ours = seconds.get(OURS)
    others = {way: one for way, one in seconds.items() if way != OURS and one is not None}
    best = min(others, key=lambda way: others[way], default=None)
    return {
        "model": model,
        "budget_bytes": budget_bytes,
        "ours_seconds": ours,
        "best": best,
        "ours_to_best": _ratio(ours, others.get(best or "")),
        "ours_to_model_offload": _ratio(ours, others.get(MODEL_OFFLOAD)),
    }


def _steady(case: dict[str, Any]) -> float | None:
    """Return the seconds of a call once calls repeat; None where it did not get through."""
    measured = case.get("measured", {})
    seconds: float | None = measured.get("steady_seconds") if measured.get("fits") else None
    return seconds


def _ratio(ours: float | None, other: float | None) -> float | None:
    return ours / other if ours is not None and other else None


def over(cases: list[dict[str, Any]]) -> list[str]:
    """Return where our plan is slower than it should be, or missing where another way fits, a line each."""
    few = {
        case["model"]
        for case in cases
        if case["call"].get("num_inference_steps", FEW + 1) <= FEW and "video" not in case["output"]
    }
    told = []
    for row in ratios_of(cases):
        where = f"{row['model']} in {row['budget_bytes']} bytes"
        if row["best"] and row["ours_seconds"] is None:
            told.append(f"{where}: {row['best']} fits, our plan does not")
        if (row["ours_to_best"] or 0) > LIMIT_TO_BEST:
            told.append(f"{where}: {row['ours_to_best']:.2f} of {row['best']}")
        if row["model"] in few and (row["ours_to_model_offload"] or 0) > LIMIT_TO_MODEL_OFFLOAD:
            told.append(f"{where}: {row['ours_to_model_offload']:.2f} of model offload")
    return told


def summary_of(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many cases ran, and the ratios."""
    return {
        "cases": len(cases),
        "run": sum("measured" in case for case in cases),
        "fit": sum(case.get("measured", {}).get("fits", False) for case in cases),
        "ratios": ratios_of(cases),
        "over": over(cases),
    }


PLANS = Kind(
    name="vram-profiler measured plans",
    told="measured plans",
    schema_version=1,
    file="plans.json",
    summary_of=summary_of,
)
