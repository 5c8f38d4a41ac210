"""Writes every figure of many profiles and plans to a folder, or compares them with those in one, byte for byte.

Usage: python benchmarks/figures.py write FOLDER
       python benchmarks/figures.py compare FOLDER

A change of structure must change no figure: write before it, compare after it. Twenty models in four modes, two denoise
steps each, and twelve plans; a file holds the events, totals, peaks, submodule spans and breakdowns of a profile, or
all of a plan. Sentences are left out. Exits with 1 if a figure differs, naming the files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from profiler.atomic import write_text
from profiler.errors import ProfilerError
from profiler.libraries.modes import Mode
from profiler.sizing.scenario import CallOptions, Scenario
from profiler.sizing.size import plan_model, profile_model

GPU = "rtx-4090"
MODES = {
    "resident": Mode(name="resident"),
    "model": Mode(name="model"),
    "group-block": Mode(name="group-block", stream=True, record_stream=True),
    "sequential": Mode(name="sequential"),
}
MODELS = [
    "sd15",
    "sd21",
    "sd15-controlnet",
    "sdxl-base",
    "sdxl-refiner",
    "sdxl-turbo",
    "sd3-medium",
    "sd35-large",
    "flux1-dev",
    "flux1-schnell",
    "flux2-klein-4b",
    "qwen-image",
    "z-image-turbo",
    "pixart-sigma-xl",
    "hunyuandit",
    "auraflow",
    "kolors",
    "cogvideox-2b",
    "wan2.1-t2v-1.3b",
    "ltx-video",
]
FRAMES = 9
PLANS: dict[str, dict[str, Any]] = {
    "sd15": {"budget": "2GiB"},
    "sdxl-base": {"budget": "8GiB"},
    "sdxl-base, small": {"budget": "4GiB", "objective": "bytes"},
    "sdxl-base, stock": {"budget": "8GiB", "levers": "none", "sticky": False},
    "sdxl-base, two calls": {"budget": "7GiB", "also": (CallOptions(height=768, width=768),)},
    "sdxl-turbo": {"budget": "5GiB", "objective": "first-image"},
    "sd3-medium": {"budget": "10GiB", "ram": "24GiB"},
    "flux1-dev": {"budget": "12GiB"},
    "flux1-dev, disk": {"budget": "10GiB", "ram": "30GiB", "levers": "swap,stream,group,disk"},
    "flux1-dev, nf4": {"budget": "10GiB", "quantization": {"transformer": "bnb-nf4"}},
    "pixart-sigma-xl": {"budget": "9GiB", "allow": ("vae-tiling",)},
    "wan2.1-t2v-1.3b": {"budget": "9GiB"},
}
_WISHES = {"objective", "levers", "sticky", "allow"}
_FIGURES = (
    "gpu",
    "mode",
    "sequence",
    "excluded",
    "components",
    "events",
    "totals",
    "bill",
    "insides",
    "error_band",
    "error_band_below",
    "complete",
    "settings",
)


def profile_figures(model: str, mode: str) -> Any:
    """Return the figures of one profile, or the sentence in place of them."""
    try:
        profile = profile_model(_scenario(model, mode=MODES[mode]))
    except ProfilerError as error:
        return str(error)
    return {name: _plain(getattr(profile, name)) for name in _FIGURES}


def plan_figures(name: str) -> Any:
    """Return all of a plan, or the sentence in place of one."""
    asked = dict(PLANS[name])
    budget, ram = asked.pop("budget"), asked.pop("ram", None)
    wishes = {each: asked.pop(each) for each in _WISHES & set(asked)}
    try:
        plan = plan_model(
            _scenario(name.partition(",")[0], **asked), budget, ram_bytes=ram, **wishes
        )
    except ProfilerError as error:
        return str(error)
    return _plain(plan)


def _scenario(model: str, **options: Any) -> Scenario:
    frames = FRAMES if model.startswith(("cogvideox", "wan", "ltx")) else None
    return Scenario(model=model, gpu=GPU, steps=2, frames=frames, **options)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; numbers of every length, named tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset) or (
        hasattr(value, "__iter__") and not isinstance(value, str)
    ):
        return [_plain(one) for one in value]
    return value


def _job(job: tuple[str, ...]) -> tuple[str, str]:
    kind, *what = job
    figures = plan_figures(*what) if kind == "plan" else profile_figures(*what)
    return " ".join(job).replace(",", ""), json.dumps(figures, indent=0, sort_keys=True) + "\n"


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    jobs: list[tuple[str, ...]] = [("plan", name) for name in PLANS]
    jobs += [("profile", model, mode) for model in MODELS for mode in MODES]
    jobs = [job for job in jobs if asked.only in " ".join(job)]
    asked.folder.mkdir(parents=True, exist_ok=True)
    began, other = time.perf_counter(), []
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        for name, text in pool.map(_job, jobs):
            file = asked.folder / f"{name}.json"
            if asked.what == "write":
                write_text(file, text)
            elif not file.is_file() or file.read_text() != text:
                other.append(name)
                print(f"{name}: other figures", flush=True)
    took = time.perf_counter() - began
    print(
        f"{len(jobs) - len(other)} of {len(jobs)} {'written' if asked.what == 'write' else 'equal'} in {took:.0f} s"
    )
    sys.exit(1 if other else 0)


if __name__ == "__main__":
    main()
