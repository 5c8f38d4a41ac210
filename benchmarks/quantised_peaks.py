"""Predicts the published peaks of FLUX.1-dev with quantised components, and prints the error of each.

Usage: python benchmarks/quantised_peaks.py [--only PART_OF_A_NAME] [--json]

`published/quantised_peaks.csv` holds what others measured on an H100: reserved memory once everything is on the GPU,
and at the peak of a call of 1024 x 1024 pixels. Libraries load differently from version to version, and what loading
leaves reserved differs with it, so the growth from the one to the other is compared as well. Rows whose library is not
installed (the extra `quantization`) are named and left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch

from profiler.errors import ProfilerError
from profiler.pipelines import load_pipeline
from profiler.tracing import profile_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU

PUBLISHED = Path(__file__).parent / "published" / "quantised_peaks.csv"
CALL: dict[str, Any] = {"height": 1024, "width": 1024, "max_sequence_length": 512}


class Peak(NamedTuple):
    """One row: published, and predicted."""

    quantization: str
    published_loaded_gib: float
    published_peak_gib: float
    loaded_gib: float
    peak_gib: float

    @property
    def error(self) -> float:
        """Predicted peak against the published one, as a fraction."""
        return self.peak_gib / self.published_peak_gib - 1

    @property
    def growth_error_gib(self) -> float:
        """Predicted growth in the call less the published one."""
        published = self.published_peak_gib - self.published_loaded_gib
        return self.peak_gib - self.loaded_gib - published


def predict(row: dict[str, str]) -> Peak:
    """Return one row with its prediction, on a virtual GPU of its own.

    Raises:
        InputError: if the library that quantises is not installed.
    """
    with VirtualGPU(row["gpu"]):
        kinds = dict.fromkeys(row["components"].split(), row["quantization"])
        pipe = load_pipeline("flux1-dev", dtype="bfloat16", quantization=kinds)
        if row["quantization"] == "layerwise casting":
            pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
        pipe.to("cuda")
        loaded_bytes = torch.cuda.max_memory_reserved()
        profile = profile_pipeline(pipe, num_inference_steps=2, **CALL)
    return Peak(
        row["quantization"],
        float(row["loaded_reserved_gib"]),
        float(row["peak_reserved_gib"]),
        loaded_bytes / GIB,
        profile.totals.peak_reserved_bytes / GIB,
    )


def main() -> None:
    """Print each row, and the median and worst error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if options.only in row["quantization"]]
    found: list[Peak] = []
    left_out: dict[str, str] = {}
    for row in rows:
        try:
            found.append(predict(row))
        except ProfilerError as reason:
            left_out[row["quantization"]] = str(reason)
    errors = [abs(peak.error) for peak in found] or [0.0]
    summary = {
        "rows": len(found),
        "left_out": left_out,
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
    }
    if options.json:
        cases = [{**peak._asdict(), "error": peak.error} for peak in found]
        print(json.dumps({**summary, "results": cases}, indent=2))
        return
    for peak in found:
        print(
            f"{peak.quantization:20} loaded {peak.published_loaded_gib:7.3f} {peak.loaded_gib:7.3f}"
            f"   peak {peak.published_peak_gib:7.3f} {peak.peak_gib:7.3f} {peak.error:+7.1%}"
            f"   growth {peak.growth_error_gib:+6.3f} GiB"
        )
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
