"""How the time of a profile grows with the steps and with the blocks of the model.

Usage: python benchmarks/scaling.py [--json] [--pairs N]

Each model is profiled in a process of its own, under model offload as `vram profile` does it by default, on a GPU
that holds it. After the imports comes first a profile of 50 steps, whose wall time is `first_seconds`, nothing having
been run before; then pairs of 4 and 50 steps in turn, of which the ratio is the median. Limits: 1.15, and 6 s.

The blocks: FLUX.1-dev with ever more of them, profiled with 50 steps. Linear growth means that each added block takes
as long, whether it is among the first or the last: `marginal_ratio` compares the two halves of the range, and is to be
at most 1.25. All are the medians of three profiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

GPU = "h200"
MODELS = ("sdxl-base", "flux1-dev", "qwen-image", "wan2.1-t2v-14b")
FEW, MANY = 4, 50
MOST_RATIO = 1.15
MOST_SECONDS = 6.0

BLOCKS = (
    8,
    24,
    40,
    56,
    72,
)  # double and single ones together, one to two as in FLUX.1-dev's 19 and 38
MOST_MARGINAL_RATIO = 1.25
ROUNDS = 3


def profile_seconds(model: str, steps: int) -> float:
    """Return how long one profile takes, the pipeline's building included."""
    from profiler.sizing.scenario import Scenario
    from profiler.sizing.size import profile_model

    began = time.perf_counter()
    profile = profile_model(Scenario(model=model, gpu=GPU, steps=steps))
    seconds = time.perf_counter() - began
    assert profile.complete, profile.error
    assert len(profile.steps) == steps, profile.steps
    return seconds


def steps_of(model: str, pairs: int) -> dict[str, float]:
    """Return the figures of one model."""
    _import_all(model)
    first = profile_seconds(model, MANY)
    found = [(profile_seconds(model, FEW), profile_seconds(model, MANY)) for _ in range(pairs)]
    return {
        "first_seconds": first,
        "seconds_4_steps": statistics.median(few for few, _ in found),
        "seconds_50_steps": statistics.median(many for _, many in found),
        "ratio": statistics.median(many / few for few, many in found),
    }


def _import_all(model: str) -> None:
    """Import what a profile of the model imports, without running anything on a virtual GPU."""
    import diffusers
    import torch
    import transformers

    import profiler.sizing.size
    import profiler.tracing
    from profiler.pipelines import catalogue

    entry = catalogue()[model]
    assert profiler.sizing.size, profiler.tracing
    assert torch.__version__
    getattr(diffusers, entry.pipeline_class)
    libraries = {"diffusers": diffusers, "transformers": transformers}
    for part in entry.components.values():
        if part is not None and part.library in libraries:
            getattr(libraries[part.library], part.class_name)


def blocks_seconds() -> dict[int, float]:
    """Return the seconds of a profile by the number of blocks."""
    rounds: dict[int, list[float]] = {count: [] for count in BLOCKS}
    for _ in range(ROUNDS + 1):
        for count in BLOCKS:
            rounds[count].append(_flux_seconds(count))
    return {count: statistics.median(times[1:]) for count, times in rounds.items()}


def _flux_seconds(count: int) -> float:
    import diffusers
    import torch

    from profiler.pipelines import load_pipeline
    from profiler.tracing import profile_pipeline
    from profiler.virtual import VirtualGPU

    with VirtualGPU(GPU):
        pipe = load_pipeline("flux1-dev")
        config = {
            **pipe.transformer.config,
            "num_layers": count // 3,
            "num_single_layers": count - count // 3,
        }
        began = time.perf_counter()
        torch.set_default_dtype(torch.bfloat16)
        try:
            pipe.transformer = diffusers.FluxTransformer2DModel.from_config(config)
        finally:
            torch.set_default_dtype(torch.float32)
        profile = profile_pipeline(pipe, mode="model", num_inference_steps=MANY)
        assert profile.complete, profile.error
        return time.perf_counter() - began


def marginal_ratio(seconds: dict[int, float]) -> float:
    """Return how much more an added block takes in the upper half of the range than in the lower."""
    low, middle, high = BLOCKS[0], BLOCKS[len(BLOCKS) // 2], BLOCKS[-1]
    lower = (seconds[middle] - seconds[low]) / (middle - low)
    return (seconds[high] - seconds[middle]) / (high - middle) / lower


def in_process(*arguments: str) -> Any:
    """Return what this script prints in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Print the figures, and fail where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--pairs", type=int, default=5, help="of 4 and 50 steps, per model")
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--blocks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(steps_of(options.model, options.pairs)))
        return
    if options.blocks:
        print(json.dumps(list(blocks_seconds().items())))
        return
    steps = {name: in_process("--model", name, "--pairs", str(options.pairs)) for name in MODELS}
    blocks = dict(in_process("--blocks"))
    growth = marginal_ratio(blocks)
    if options.json:
        print(json.dumps({"steps": steps, "blocks": blocks, "marginal_ratio": growth}, indent=2))
    else:
        for name, figures in steps.items():
            print(f"{name:16}", *(f"{key} {figure:.2f}" for key, figure in figures.items()))
        print(
            "FLUX by blocks: ", *(f"{count}: {seconds:.2f} s" for count, seconds in blocks.items())
        )
        print(f"marginal ratio   {growth:.2f}")
    over = [
        name
        for name, figures in steps.items()
        if figures["ratio"] > MOST_RATIO or figures["first_seconds"] > MOST_SECONDS
    ]
    if over or growth > MOST_MARGINAL_RATIO:
        raise SystemExit(f"over the limits: {', '.join(over) or 'growth with the blocks'}")


if __name__ == "__main__":
    main()
