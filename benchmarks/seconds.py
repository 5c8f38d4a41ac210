"""Predicts every published timing that can be run, and prints predicted / published of each.

Usage: python benchmarks/seconds.py [--published ../shared/published/seconds.csv] [--only PART_OF_AN_ID] [--json]

The table holds seconds that other people measured, of whole calls or of one denoise step: model, GPU, dtype, size and
mode (`seconds_rows.py` says how each is run). Compiled calls are left out. Below the rows stand the median of
|ln(predicted / published)|, the share within 20 % and the share inside the printed band: by mode, GPU, dtype, kind of
model, and by what the call mostly waits for.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import diffusers

from benchmarks.seconds_rows import Row, rows_of, run, spec_of
from profiler.gpus.cost_model import Shares, shares_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile

WITHIN = math.log(1.2)
UNETS = ("sd", "lcm", "kolors")
NOT_UNETS = ("sd3",)


class Result(NamedTuple):
    """One row, predicted."""

    id: str
    gpu: str
    group: str
    mode: str
    dtype: str
    kind: str  # UNet, DiT or video
    waits_for: str  # kernels, launches or copies
    published_seconds: float
    predicted_seconds: float
    band: float
    band_below: float

    @property
    def miss(self) -> float:
        """The logarithm of predicted / published."""
        return math.log(self.predicted_seconds / self.published_seconds)

    @property
    def inside_band(self) -> bool:
        """Whether the published figure lies within the prediction's own band."""
        ratio = self.published_seconds / self.predicted_seconds
        return 1 - self.band_below <= ratio <= 1 + self.band


def predict(row: Row, folder: Path) -> Result:
    """Return the prediction of one row.

    Args:
        row: of the table.
        folder: with the configurations of models that are not in the catalogue.
    """
    profile = run(row, row.steps, folder)
    seconds = profile.totals.seconds
    if row.is_step:
        seconds = _one_step(profile)
    shares = _shares(profile)
    largest = max(range(len(shares)), key=shares.__getitem__)
    spec = spec_of(row)
    return Result(
        row.id,
        row.gpu,
        spec.cost.group,
        row.kind,
        row.dtype,
        _kind(row),
        Shares._fields[largest],
        row.seconds,
        seconds,
        profile.seconds_band,
        profile.seconds_band_below,
    )


def _one_step(profile: Profile) -> float:
    """Return the seconds between the beginnings of two late denoise steps."""
    begins = [
        event.start_seconds
        for event in profile.events
        if event.kind == "enter" and event.component in ("unet", "transformer")
    ]
    half = len(begins) // 2
    return (begins[-1] - begins[half]) / (len(begins) - 1 - half)


def _shares(profile: Profile) -> Shares:
    totals = profile.totals
    return shares_of(
        totals.seconds, totals.host_bound_seconds or 0.0, totals.exposed_transfer_seconds or 0.0
    )


def _kind(row: Row) -> str:
    if "num_frames" in row.call:
        return "video"
    return "UNet" if row.model.startswith(UNETS) and not row.model.startswith(NOT_UNETS) else "DiT"


def results(rows: list[Row], folder: Path) -> Iterator[Result]:
    """Yield the prediction of each row; rows that ask for the same are run once."""
    known: dict[str, Result] = {}
    for row in rows:
        same = repr(row._replace(id="", source="", seconds=0.0, comments=""))
        alone = (
            row.comments if any(word in row.comments for word in ("TF32", "channels_last")) else ""
        )
        key = f"{same} {alone} {row.id if row.id.startswith('ev-') else ''}"
        if key not in known:
            known[key] = predict(row, folder)
        yield known[key]._replace(id=row.id, published_seconds=row.seconds)


def summaries(found: list[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return medians and shares, by each way of grouping the rows."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for way in ("mode", "gpu", "dtype", "kind", "waits_for"):
        groups = defaultdict(list)
        for result in found:
            groups[getattr(result, way)].append(result)
        tables[way] = {name: _summary(rows) for name, rows in sorted(groups.items())}
    tables["all"] = {"rows": _summary(found)}
    return tables


def _summary(rows: list[Result]) -> dict[str, Any]:
    misses = [result.miss for result in rows]
    return {
        "rows": len(rows),
        "median": statistics.median(map(abs, misses)),
        "lean": statistics.median(misses),
        "within_20_percent": sum(abs(miss) < WITHIN for miss in misses) / len(rows),
        "inside_band": sum(result.inside_band for result in rows) / len(rows),
        "widest_band": max((1 + one.band) / (1 - one.band_below) for one in rows),
    }


def main() -> None:
    """Print the rows and the summaries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, default=Path("../shared/published/seconds.csv"))
    parser.add_argument("--only", default="", help="rows whose id contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not options.published.is_file():
        parser.error(
            f"no table of published seconds at {options.published}: name one with --published"
        )
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    rows, compiled = rows_of(options.published, options.only)
    found = list(results(rows, options.published.parent.parent / "model_configs"))
    tables = summaries(found)
    if options.json:
        each = [
            {**one._asdict(), "miss": one.miss, "inside_band": one.inside_band} for one in found
        ]
        print(json.dumps({"compiled": compiled, **tables, "results": each}, indent=2))
        return
    for one in found:
        band = f"+{one.band:.0%} -{one.band_below:.0%}"
        where = "" if one.inside_band else "outside"
        figures = (
            f"{one.published_seconds:9.3f} {one.predicted_seconds:9.3f} {math.exp(one.miss):5.2f}"
        )
        print(
            f"{one.id:38} {one.gpu:10} {one.mode:10} {figures}  {band:11} {one.waits_for:8} {where}"
        )
    for way, table in tables.items():
        for name, row in table.items():
            shares = (
                f"{row['within_20_percent']:4.0%} within 20 %, {row['inside_band']:4.0%} in band"
            )
            print(f"{way:10} {name:12} {row['rows']:3} rows, median {row['median']:5.1%}, {shares}")
    print(f"{len(compiled)} compiled rows left out")


if __name__ == "__main__":
    main()
