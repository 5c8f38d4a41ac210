"""One SDXL UNet forward (batch 2, 128 x 128 latents) on the virtual GPU, under FakeTensorMode, and under MemTracker.

Usage: python benchmarks/virtual_speed.py [--json]

Seconds are medians of several forwards, the two modes in turn in one process; cold is the first forward of a process
that has run nothing else. Accounting (storages, capacity, workspaces, copies, values, clock) is on. The ratio is what
counts: virtual / FakeTensorMode, at most 0.20 warm and 0.35 cold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from profiler.pipelines import load_pipeline
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7


def inputs(device: str) -> dict[str, Any]:
    """Return the arguments of one forward, as the pipeline passes them at 1024 x 1024 with guidance."""
    half = {"dtype": torch.float16, "device": device}
    return {
        "sample": torch.randn(2, 4, 128, 128, **half),
        "timestep": torch.tensor(10.0, device=device),
        "encoder_hidden_states": torch.randn(2, 77, 2048, **half),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, 1280, **half),
            "time_ids": torch.randn(2, 6, **half),
        },
    }


def unet(device: str) -> Any:
    """Return SDXL's UNet on `device`, built under whichever mode is active."""
    configuration = _configuration()
    torch.set_default_dtype(torch.float16)
    try:
        model = diffusers.UNet2DConditionModel.from_config(configuration).eval()
        # FakeTensorMode refuses `Module.to`, and needs none here.
        return model.to(device) if device == "cuda" else model
    finally:
        torch.set_default_dtype(torch.float32)


def _configuration() -> dict[str, Any]:
    return dict(load_pipeline("sdxl-base", dtype="float16").unet.config)


def seconds(run: Callable[[], Any]) -> float:
    """Return how long `run` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def virtual_run() -> tuple[Any, Callable[[], Any]]:
    """Return the context and a function that does one forward in it."""
    gpu = VirtualGPU("rtx-4090", replay=False)  # else the second forward would not be run
    with gpu:
        model = unet("cuda")
        arguments = inputs("cuda")
    return gpu, lambda: model(**arguments)


def fake_run() -> tuple[Any, Callable[[], Any]]:
    """The same under FakeTensorMode; on the CPU, since a CPU build refuses `cuda` there."""
    mode = FakeTensorMode()
    with mode, torch.no_grad():
        model = unet("cpu")
        arguments = inputs("cpu")
    return mode, lambda: model(**arguments)


def cold(which: str) -> float:
    """Return the seconds of the first forward in a process of its own."""
    command = [sys.executable, __file__, "--cold", which]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def warm() -> tuple[float, float]:
    """Return the median seconds of a later forward: (virtual, FakeTensorMode)."""
    (gpu, virtual), (mode, fake) = virtual_run(), fake_run()
    times: dict[str, list[float]] = {"virtual": [], "fake": []}
    for _ in range(ROUNDS + 1):
        with gpu:
            times["virtual"].append(seconds(virtual))
        with mode, torch.no_grad():
            times["fake"].append(seconds(fake))
    return statistics.median(times["virtual"][1:]), statistics.median(times["fake"][1:])


def memtracker() -> float:
    """Return the seconds of one forward under torch's MemTracker over FakeTensorMode."""
    mode, run = fake_run()
    with mode, torch.no_grad():
        tracker = MemTracker()
        with tracker:
            return seconds(run)


def main() -> None:
    """Print the figures and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--cold", choices=("virtual", "fake"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cold:
        context, run = virtual_run() if options.cold == "virtual" else fake_run()
        with context, torch.no_grad():
            print(seconds(run))
        return
    virtual, fake = warm()
    virtual_cold, fake_cold = cold("virtual"), cold("fake")
    figures = {
        "virtual_seconds": virtual,
        "faketensor_seconds": fake,
        "virtual_cold_seconds": virtual_cold,
        "faketensor_cold_seconds": fake_cold,
        "memtracker_seconds": memtracker(),
        "ratio_warm": virtual / fake,
        "ratio_cold": virtual_cold / fake_cold,
    }
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:24} {figure:.3f}")


if __name__ == "__main__":
    main()
