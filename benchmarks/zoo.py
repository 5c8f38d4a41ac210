"""Runs every model of the catalogue at full size under every mode, and writes docs/zoo.md.

Usage: python benchmarks/zoo.py [--only PART_OF_A_NAME] [--modes MODE,MODE] [--resume]

Each model makes its default call, cut to two denoise steps, on a virtual GPU without a limit, so that every mode
shows what it needs. The rows go to benchmarks/results/zoo.json after each model; `--resume` keeps those that are there.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.atomic import write_text
from profiler.errors import InputError
from profiler.gpus.hardware import gpu_spec, gpu_specs
from profiler.libraries.modes import Mode
from profiler.pipelines import catalogue, load_pipeline
from profiler.pipelines.blank_inputs import call_parameters
from profiler.record.verdict import verdict
from profiler.tracing import profile_pipeline
from profiler.units import GIB, TIB
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from profiler.record.profile import Profile

MODES = {
    "resident": Mode(name="resident"),
    "model": Mode(name="model"),
    "sequential": Mode(name="sequential"),
    "group-block": Mode(name="group-block", blocks=2),
    "group-block-stream": Mode(name="group-block", stream=True),
    "group-leaf": Mode(name="group-leaf"),
    "group-leaf-stream": Mode(name="group-leaf", stream=True, record_stream=True),
    "layerwise": Mode(name="model", layerwise_casting=True),
    "tiling": Mode(name="model", vae_tiling=True, vae_slicing=True),
}
GPU = "rtx-4090"
_GPUS = [one for one in gpu_specs() if one.has_cudnn and not one.unified_memory]
STEPS = 2
LIBRARIES = ("torch", "diffusers", "accelerate", "transformers")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"
INTRODUCTION = """\
# Every model under every mode

Printed by `make zoo`: each model of the catalogue at the size of its own default call, two denoise steps, on a virtual
RTX 4090 whose memory has no limit. All of it is predicted. GiB, but for the predicted seconds of the call; `device` is
what `nvidia-smi` would show, `up` and `down` what is copied to the GPU and back, `pinned` page-locked host memory, and
`GPU` the memory of the smallest GPU of `vram list gpus` that holds `device` and the error band. `tiling` and
`layerwise` are model offload with VAE tiling and slicing, and with the denoiser stored in float8.

`device` is context + reserved, the figure that a report calls "on the GPU", of a GPU that is never full: on a
smaller one PyTorch gives cached memory back before it runs out, and reserves less (sdxl-base under model offload on an
RTX 4060: 6.72 GiB, and 7.74 here). What a plan "needs" is another figure: context + peak + slack + error band.

A sentence in place of figures is what stock diffusers 0.42.1 says instead of running, on the virtual GPU; none of it
was tried on a real one. `tests/pipelines/test_matrix_images.py` and `test_matrix_videos.py` hold each.
"""

Row = dict[str, Any]


def run(model: str, mode: str) -> Row:
    """Return the row of one run."""
    started = time.perf_counter()
    with VirtualGPU(gpu_spec(GPU).with_capacity(TIB)):
        pipe = load_pipeline(model)
        try:
            stepped = "num_inference_steps" in call_parameters(pipe)
            steps = {"num_inference_steps": STEPS} if stepped else {}
            profile = profile_pipeline(pipe, mode=MODES[mode], **steps)
            row = _row(profile)
        except InputError as error:
            row = {"error": str(error)}
    ran_seconds = round(time.perf_counter() - started, 1)
    return {"model": model, "mode": mode, **row, "ran_seconds": ran_seconds}


def _row(profile: Profile) -> Row:
    if not profile.complete:
        return {"error": profile.error}
    totals = profile.totals
    needed_bytes = verdict(profile).needed_bytes
    fitting = [each.capacity_bytes for each in _GPUS if each.capacity_bytes >= needed_bytes]
    return {
        "error": "",
        "call": profile.call,
        "dtype": profile.dtype,
        "peak_allocated_bytes": totals.peak_allocated_bytes,
        "peak_reserved_bytes": totals.peak_reserved_bytes,
        "device_bytes": totals.device_bytes,
        "error_band": profile.error_band,
        "needed_bytes": needed_bytes,
        "smallest_card_bytes": min(fitting, default=None),
        "h2d_bytes": totals.h2d_bytes,
        "d2h_bytes": totals.d2h_bytes,
        "host_pinned_bytes": totals.host_pinned_bytes,
        "seconds": totals.seconds,
    }


def table(rows: list[Row]) -> str:
    """Return the table of all rows, in Markdown."""
    lines = [
        "| model | mode | allocated | reserved | device | up | down | pinned | seconds | GPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    head = f"| {row['model']} | {row['mode']} |"
    if row["error"]:
        return f"{head} {_reason(row['error'])} | | | | | | | |"
    names = ("peak_allocated", "peak_reserved", "device", "h2d", "d2h", "host_pinned")
    figures = " | ".join(f"{row[f'{name}_bytes'] / GIB:.2f}" for name in names)
    smallest = row["smallest_card_bytes"]
    fits = "none" if smallest is None else f"{smallest / GIB:.1f}"
    return f"{head} {figures} | {row['seconds']:.1f} | {fits} |"


def _reason(error: str) -> str:
    return error.partition(" (when ")[0].partition(". ")[0].replace("|", "/")


def versions() -> dict[str, str]:
    """Return the versions that decide the figures."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def write(rows: list[Row]) -> None:
    """Write the rows, and the page with their table."""
    head = json.dumps({"card": GPU, "steps": STEPS, "versions": versions()})
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text(RESULTS, f'{head[:-1]}, "rows": [\n{lines}\n]}}\n')
    write_text(PAGE, f"{INTRODUCTION}\n{table(rows)}\n")


def main() -> None:
    """Run what is asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--modes", default=",".join(MODES), help="modes to run, of all")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    modes = [mode for mode in MODES if mode in options.modes.split(",")]
    keep = options.resume or options.only or len(modes) < len(MODES)
    found = json.loads(RESULTS.read_text("utf-8"))["rows"] if keep and RESULTS.is_file() else []
    rows = {(row["model"], row["mode"]): row for row in found}
    for model in catalogue():
        asked = options.only in model
        for mode in modes if asked else ():
            if options.resume and (model, mode) in rows:
                continue
            rows[model, mode] = run(model, mode)
            gc.collect()
            print(_line(rows[model, mode]), flush=True)
        in_order = [(name, mode) for name in catalogue() for mode in MODES]
        if asked:
            write([rows[key] for key in in_order if key in rows])


if __name__ == "__main__":
    sys.exit(main())
