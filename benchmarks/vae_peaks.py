"""Predicts every published peak of a VAE alone, and prints the error of each.

Usage: python benchmarks/vae_peaks.py [--json]

`published/vae_peaks.csv` holds what others measured on a real GPU, each row with its source: model, operation, dtype,
size, peak allocated (`above_before`: above what was allocated before the call; `total`: with the weights), and reserved
where it was measured. Stable Diffusion's rows served to calibrate the workspaces of convolutions
(profiler/virtual/workspaces.py); Qwen-Image's did not, and are an independent test.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import diffusers
import torch

from profiler.pipelines import load_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLISHED = Path(__file__).parent / "published" / "vae_peaks.csv"
TILE = 512  # pixels; what the script that measured the tiled rows sets
CALIBRATED_WITH = frozenset({"sd15"})


class Peak(NamedTuple):
    """One row: published, and predicted."""

    case: str
    published_gib: float
    predicted_gib: float
    independent: bool  # whether no rule was taken from it

    @property
    def error(self) -> float:
        """Predicted against published, as a fraction."""
        return self.predicted_gib / self.published_gib - 1


def rows() -> list[dict[str, str]]:
    """Return the published rows."""
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def predict(row: dict[str, str]) -> Peak:
    """Return one row with its prediction, on a virtual GPU of its own."""
    with VirtualGPU(row["gpu"]) as gpu:
        vae = gpu.lend(_vae(row["model"], row["dtype"])).to("cuda")
        if row["tiled"] == "1":
            vae.enable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // 8
        inputs = _inputs(vae, row).to("cuda", vae.dtype)
        before_bytes = torch.cuda.memory_allocated()
        for _ in range(
            2
        ):  # the first call takes cuBLAS's workspace, which the script's warm-up did
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before_bytes = torch.cuda.memory_allocated()
            result = _run(vae, row["operation"], inputs)
            peak_bytes = torch.cuda.max_memory_allocated()
            del result
    if row["counts"] == "above_before":
        peak_bytes -= before_bytes
    size = f"{row['height']}x{row['width']}" + (" tiled" if row["tiled"] == "1" else "")
    return Peak(
        f"{row['model']} {row['operation']} {row['dtype']} {size}",
        float(row["allocated_gib"]),
        peak_bytes / GIB,
        row["model"] not in CALIBRATED_WITH,
    )


@cache
def _vae(model: str, dtype: str) -> Any:
    return load_pipeline(model, dtype=dtype).vae.to(getattr(torch, dtype))


def _inputs(vae: Any, row: dict[str, str]) -> torch.Tensor:
    height, width = int(row["height"]), int(row["width"])
    frames = () if isinstance(vae, diffusers.AutoencoderKL) else (1,)
    if row["operation"] == "encode":
        return torch.randn(1, 3, *frames, height, width)
    channels = vae.config.get("latent_channels") or vae.config["z_dim"]
    return torch.randn(1, channels, *frames, height // 8, width // 8)


def _run(vae: Any, operation: str, inputs: torch.Tensor) -> Any:
    if operation == "encode":
        return vae.encode(inputs).latent_dist.sample()
    return vae.decode(inputs / vae.config.get("scaling_factor", 1.0), return_dict=False)[0]


def main() -> None:
    """Print each row, and the median and worst error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    found = [predict(row) for row in rows()]
    summary = {
        kind: {
            "rows": len(errors),
            "median_error": statistics.median(errors),
            "worst_error": max(errors),
        }
        for kind, errors in _errors(found)
    }
    if options.json:
        cases = [{**peak._asdict(), "error": peak.error} for peak in found]
        print(json.dumps({**summary, "results": cases}, indent=2))
        return
    for peak in found:
        print(
            f"{peak.case:42} {peak.published_gib:8.3f} {peak.predicted_gib:8.3f} {peak.error:+8.2%}"
        )
    print(json.dumps(summary))


def _errors(found: list[Peak]) -> Iterator[tuple[str, list[float]]]:
    yield "calibrated", [abs(peak.error) for peak in found if not peak.independent]
    yield "independent", [abs(peak.error) for peak in found if peak.independent]


if __name__ == "__main__":
    main()
