"""Whether a run keeps every option on its way: profile, plan, the plan's code and its verification, to the byte.

Usage: python benchmarks/options.py FOLDER [FOLDER ...] [--only OPTION] [--json]

Each folder is a pipeline in diffusers' layout. For each option of the command by itself the pipeline is profiled, the
profile is saved, loaded and planned with a budget between the smallest and all of it, the plan is saved and loaded, and
then run twice: applied by `verify`, and by executing what `vram plan --code` prints. A row names the promised and the
found peaks and bytes; "equal" means that both runs agree to the byte with each other and with the promise, in peak and
copies.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from profiler.applying.verify import compare
from profiler.errors import ProfilerError
from profiler.gpus.hardware import gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.planning import Plan
from profiler.record.profile import Profile
from profiler.sizing.scenario import CallOptions, Scenario
from profiler.sizing.size import plan_model, profile_without_limit, verify_plan
from profiler.virtual import VirtualGPU

SIZE = 512
GPU = "rtx-4090"
MIXED = {"default": "float16", "vae": "float32"}

OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "gpu": {"gpu": "rtx-3060"},
    "capacity": {"capacity": "20GiB"},
    "vae-tiling": {"mode": Mode(name="model", vae_tiling=True)},
    "vae-slicing": {"mode": Mode(name="model", vae_slicing=True), "batch": 2},
    "layerwise-casting": {"mode": Mode(name="model", layerwise_casting=True)},
    "mode resident": {"mode": Mode(name="resident")},
    "dtype": {"dtype": "float32"},
    "dtype by component": {"dtype": MIXED},
    "quantize": {"quantization": {"denoiser": "bnb-nf4"}},
    "height": {"height": SIZE + 128},
    "width": {"width": SIZE + 128},
    "batch": {"batch": 2},
    "steps": {"steps": 3},
    "cached-prompt": {"cached_prompt": True},
    "set": {"extra": {"guidance_scale": 1.0}},
    "also, weight": {"weight": 2, "also": (CallOptions(height=256, width=256, steps=2),)},
}


@dataclass(frozen=True)
class Row:
    """What became of one option."""

    model: str
    option: str
    equal: bool
    promised_peak_bytes: int = 0
    applied_peak_bytes: int = 0
    coded_peak_bytes: int = 0
    copied_bytes: int = 0
    told: str = ""  # what differed, or why the option does not go with this pipeline
    seconds: float = 0.0


def row(folder: Path, option: str) -> Row:
    """Return what became of one option of one pipeline."""
    began = time.perf_counter()
    try:
        found = _row(folder, option, _scenario(folder, option))
    except ProfilerError as error:
        found = Row(folder.name, option, equal=False, told=f"refused: {error}"[:150])
    return replace(found, seconds=time.perf_counter() - began)


def _scenario(folder: Path, option: str) -> Scenario:
    base = {"model": str(folder), "gpu": GPU, "dtype": "float16"}
    wanted = {**base, "height": SIZE, "width": SIZE, "steps": 2, **OPTIONS[option]}
    if option == "quantize":
        wanted["quantization"] = {_denoiser(folder): "bnb-nf4"}
    return Scenario(**wanted)


def _denoiser(folder: Path) -> str:
    return "unet" if (folder / "unet").is_dir() else "transformer"


def _row(folder: Path, option: str, scenario: Scenario) -> Row:
    with tempfile.TemporaryDirectory() as place:
        file, kept = Path(place) / "profile.parquet", Path(place) / "plan.json"
        profile_without_limit(scenario).save(file)
        profile = Profile.load(file)
        everything = plan_model(profile, 2 * profile.totals.device_bytes)
        middle = (everything.smallest_budget_bytes + everything.predicted.device_bytes) // 2
        plan_model(profile, middle).save(kept)
        plan = Plan.load(kept)
        applied = verify_plan(plan)
        coded = compare(plan, _by_code(plan, place))
    figures = ("peak_allocated_bytes", "h2d_weight_bytes", "d2h_weight_bytes")
    told = [*applied.differences, *applied.drift, *coded.differences]
    if applied.found.peak_allocated_bytes != plan.predicted.peak_allocated_bytes:
        told.append("peak other than promised")
    told += [
        f"{name}: applied {getattr(applied.found, name):,}, by code {getattr(coded.found, name):,}"
        for name in figures
        if getattr(applied.found, name) != getattr(coded.found, name)
    ]
    return Row(
        folder.name,
        option,
        equal=not told,
        promised_peak_bytes=plan.predicted.peak_allocated_bytes,
        applied_peak_bytes=applied.found.peak_allocated_bytes,
        coded_peak_bytes=coded.found.peak_allocated_bytes,
        copied_bytes=applied.found.h2d_weight_bytes + applied.found.d2h_weight_bytes,
        told="; ".join(told),
    )


def _by_code(plan: Plan, place: str) -> Profile:
    """Return two calls of the plan's pipeline, placed by the plan's code alone."""
    from profiler.applying.verify import run_calls

    with VirtualGPU(gpu_spec(plan.gpu).with_capacity(plan.budget_bytes)), quiet():
        pipe = load_pipeline(
            plan.model,
            dtype=plan.dtypes or None,
            quantization=plan.quantization,
            pipeline_class=plan.pipeline_class,
        )
        pipe.set_progress_bar_config(disable=True)
        code = plan.to_code().replace('Path("offload")', f"Path({place!r}) / 'offload'")
        exec(compile(code, "printed", "exec"), {"pipe": pipe})  # noqa: S102 - what it is about
        return run_calls(plan, pipe)


def main() -> None:
    """Print a row for each folder and option."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", action="append", choices=OPTIONS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = []
    for folder in asked.folders:
        for option in asked.only or OPTIONS:
            rows.append(found := row(folder, option))
            print(_line(found), file=sys.stderr if asked.json else sys.stdout, flush=True)
    if asked.json:
        print(json.dumps([asdict(one) for one in rows], indent=1))
    equal = sum(one.equal for one in rows)
    print(f"{equal} of {len(rows)} equal", file=sys.stderr if asked.json else sys.stdout)


def _line(one: Row) -> str:
    word = "equal" if one.equal else "OTHER"
    off = one.applied_peak_bytes - one.promised_peak_bytes
    return (
        f"{one.model:22} {one.option:20} {word}  peak {one.applied_peak_bytes:>14,} "
        f"promised {-off:>+11,}  copied {one.copied_bytes:>15,}  {one.seconds:5.1f} s  {one.told}"
    )


if __name__ == "__main__":
    main()
