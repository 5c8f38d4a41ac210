"""Prints the figures of small pipelines in each mode as one line of JSON, for `matrix.py` to compare."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "worlds"))

from shallow_models import shallow_pipeline

from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

MODELS = ("sd15", "sdxl-base", "sd3-medium", "flux1-dev", "pixart-sigma-xl")
MODES = ("resident", "model", "sequential", "group-leaf")


def figures(model: str, mode: str) -> list[int]:
    """Return the peaks allocated and reserved, the weight bytes copied each way, and the number of events."""
    with VirtualGPU("rtx-4090"):
        pipe = shallow_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        call = {"prompt": "a cat", "height": 256, "width": 256, "num_inference_steps": 2}
        profile = profile_pipeline(pipe, mode=mode, **call)
    totals = profile.totals
    return [
        totals.peak_allocated_bytes,
        totals.peak_reserved_bytes,
        totals.h2d_weight_bytes,
        totals.d2h_weight_bytes,
        len(profile.events),
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    made = {f"{model}, {mode}": figures(model, mode) for model in MODELS for mode in MODES}
    print(json.dumps(made))
