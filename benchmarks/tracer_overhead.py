"""What the tracer costs beside real computing on the CPU, for a tiny Stable Diffusion: seconds and memory.

Run: python benchmarks/tracer_overhead.py [--pairs 30] [--json]

The weights are real and the CPU computes with them; the tracer stands where it stands on a GPU. What a GPU adds is
missing: its counters and events are stand-ins, its allocator has nothing to write down, and no weights are moved.
`benchmarks/gpu/tracer_overhead.py` is the same on a GPU.

Seconds are the process's own on one thread, the two ways in turn; the ratio is the median, and beside it stands what
plain calls are to the plain ones around them. Limits: a ratio of 1.03, 1 MB of host memory for every 1000 events,
nothing on the device (of a virtual GPU, on which the pipe runs for that).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tracing_cost import LEAST_PAIRS, device_memory, host_memory, slowdown

from profiler.patching import Patches
from profiler.virtual import VirtualGPU
from profiler.virtual.torch_api import cuda as cuda_api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = 20
LIMIT_RATIO = 1.03
LIMIT_BYTES = 1_000_000
_LATENTS = 32  # per side


def tiny_pipeline() -> Any:
    """Return a Stable Diffusion with random weights of 1.5 million parameters, on the CPU."""
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1}
    unet = UNet2DConditionModel(
        **blocks,
        cross_attention_dim=32,
        attention_head_dim=8,
        sample_size=_LATENTS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        **blocks,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        requires_safety_checker=False,
        **absent,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def calling(pipe: Any, device: str, steps: int) -> Callable[[], Any]:
    """Return a function that makes one picture."""
    embeds = {
        name: torch.randn(1, 77, 32, device=device)
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    side = 2 * _LATENTS  # this VAE halves once
    size = {"height": side, "width": side, "num_inference_steps": steps}
    return lambda: pipe(**embeds, **size)


@contextmanager
def answered_by_a_model() -> Iterator[None]:
    """Let `torch.cuda` speak of a GPU while tensors stay what they are.

    Statistics are made as C++ makes them on a GPU, all of them anew for each reading; nothing is counted in them.
    """
    gpu = VirtualGPU("h200")
    gpu._thread = threading.get_ident()
    with Patches() as patches:
        cuda_api.install(gpu, patches)
        made = torch.cuda.memory_stats_as_nested_dict()
        stand_ins = {
            "memory_stats_as_nested_dict": lambda: _copied(made),
            "reset_peak_memory_stats": lambda: None,
        }
        for owner in (torch.cuda, torch.cuda.memory):
            for name, function in stand_ins.items():
                patches.replace(owner, name, function)
        yield


def _copied(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: dict(one) if isinstance(one, dict) else one for key, one in figure.items()}
        if isinstance(figure, dict)
        else figure
        for name, figure in figures.items()
    }


def measured(pairs: int, steps: int = STEPS) -> dict[str, Any]:
    """Return the figures."""
    with torch.no_grad(), answered_by_a_model():
        pipe = tiny_pipeline()
        call = calling(pipe, "cpu", steps)
        found = slowdown(pipe, call, pairs=pairs, clock=time.process_time)
        found |= host_memory(pipe, call)
    with VirtualGPU("h200"):
        pipe = tiny_pipeline().to("cuda")
        return found | device_memory(pipe, calling(pipe, "cuda", steps))


def over(found: dict[str, Any]) -> list[str]:
    """Return what exceeds its limit, a line each."""
    told = []
    if found["ratio"] > LIMIT_RATIO:
        told.append(f"a ratio of {found['ratio']:.3f} is over {LIMIT_RATIO}")
    if found["host_bytes_per_1000_events"] > LIMIT_BYTES:
        told.append(f"{found['host_bytes_per_1000_events']:,.0f} bytes for 1000 events")
    device = {name: figure for name, figure in found.items() if name.startswith("device_")}
    return told + [f"{name} {figure}" for name, figure in device.items() if figure > 0]


def main() -> None:
    """Print the figures; fail where one is over its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/tracer_overhead.py --pairs 30 --json",
    )
    parser.add_argument("--pairs", type=int, default=30, help="traced calls, 30 by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.pairs < LEAST_PAIRS:
        parser.error(f"--pairs {options.pairs}: at least {LEAST_PAIRS} give quartiles")
    torch.set_num_threads(1)
    found = measured(options.pairs)
    print(json.dumps(found, indent=2) if options.json else worded(found))
    if told := over(found):
        sys.exit("\n".join(told))


def worded(one: dict[str, Any]) -> str:
    """Return the figures in a line."""
    low, high = one["ratio_quartiles"]
    device = max(figure for name, figure in one.items() if name.startswith("device_"))
    return (
        f"traced / plain {one['ratio']:.3f} (quartiles {low:.3f} to {high:.3f}, {one['pairs']} calls of "
        f"{one['plain_seconds']:.2f} s, {one['events']} events), plain / plain {one['noise']:.3f}, "
        f"around it {one['attaching_seconds']:.3f} s; "
        f"host {one['host_bytes_per_1000_events'] / 1e6:.2f} MB for 1000 events and "
        f"{one['host_bytes_once'] / 1e6:.2f} MB once; device {device} bytes"
    )


if __name__ == "__main__":
    main()
