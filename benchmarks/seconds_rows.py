"""The published seconds that can be expressed, and how each is run on a virtual GPU.

Each row is one eager call, or one denoise step of it, that somebody timed and published: model, GPU, dtype, size, mode.
What its source says besides is set as it was there: attention before SDPA, the UNet's channels last, TF32 for products,
a text encoder that was left out. All were timed before torch 2.9, which on Hopper preferred FlashAttention to cuDNN's.
"""

from __future__ import annotations

import csv
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from profiler.gpus.hardware import gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import catalogue, load_pipeline
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from profiler.gpus.hardware import GpuSpec
    from profiler.record.profile import Profile

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
PLAIN_ATTENTION = {
    # Each has a twin with SDPA in the same source.
    "ev-blog-sdxl-01",
    "ev-blog-sdxl-02",
    "ev-dfast-sd15-bf16",
    "ev-dfast-sd15-fp32",
}
WITHOUT_T5 = {"ev-blog-sd3-3"}  # whose published peak, 4.266 GB, holds none
ROOM_BYTES = 1 << 39
"""The memory of the GPU: a call that was published did fit, in memory of whatever version."""

if TYPE_CHECKING:
    Watching = Callable[[VirtualGPU, Any], AbstractContextManager[None]]


class Row(NamedTuple):
    """One published timing."""

    id: str
    source: str
    gpu: str
    model: str
    mode: str
    dtype: str
    steps: int
    call: dict[str, Any]
    seconds: float
    is_step: bool  # one denoise step instead of a call
    comments: str

    @property
    def kind(self) -> str:
        """What bounds the placement: resident, model or sequential."""
        return self.mode.partition("+")[0]


def rows_of(published: Path, only: str = "") -> tuple[list[Row], list[str]]:
    """Return the rows of eager calls, and the ids of compiled ones, which are left out."""
    with published.open(newline="") as file:
        every = [one for one in csv.DictReader(file) if only in one["id"]]
    compiled = [one["id"] for one in every if one["compiled"] != "no"]
    return [_row(one) for one in every if one["compiled"] == "no"], compiled


def _row(one: dict[str, str]) -> Row:
    call: dict[str, Any] = {}
    if one["height"]:
        call |= {"height": int(one["height"]), "width": int(one["width"])}
    if one["frames"]:
        call["num_frames"] = int(one["frames"])
    if int(one["batch"]) > 1:
        call["num_images_per_prompt"] = int(one["batch"])
    if one["guidance_scale"] not in ("", "default"):
        call["guidance_scale"] = float(one["guidance_scale"])
    if "without resolution binning" in one["comments"]:
        call["use_resolution_binning"] = False
    return Row(
        one["id"],
        one["source"],
        one["card"],
        one["config"],
        one["mode"],
        DTYPES[one["dtype"]],
        int(one["steps"]),
        call,
        float(one["seconds"]),
        one["what"] == "step",
        one["comments"],
    )


def spec_of(row: Row) -> GpuSpec:
    """Return the row's GPU, with room for everything."""
    return gpu_spec(row.gpu).with_capacity(ROOM_BYTES)


def run(
    row: Row,
    steps: int,
    folder: Path,
    *,
    replay: bool = True,
    watching: Watching | None = None,
) -> Profile:
    """Return the profile of one call.

    Args:
        row: what is run.
        steps: its denoise steps.
        folder: with the configurations of models that are not in the catalogue.
        replay: as of `VirtualGPU`.
        watching: entered with the GPU and the pipeline while they are profiled.

    Raises:
        RuntimeError: if the call does not come to its end.
    """
    model = row.model if row.model in catalogue() else str(folder / row.model)
    with ExitStack() as stack:
        stack.enter_context(_as_then(row))
        gpu = stack.enter_context(VirtualGPU(spec_of(row), replay=replay))
        pipe = load_pipeline(model, dtype=row.dtype)
        if row.id in WITHOUT_T5:
            pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
        if "channels_last" in row.comments:
            pipe.unet.to(memory_format=torch.channels_last)
        if row.id in PLAIN_ATTENTION:
            pipe.unet.set_default_attn_processor()
            pipe.vae.set_default_attn_processor()
        mode = Mode(
            name=row.kind,
            vae_tiling="tiling" in row.mode,
            vae_slicing="slicing" in row.mode,
        )
        if watching is not None:
            stack.enter_context(watching(gpu, pipe))
        profile = profile_pipeline(pipe, mode=mode, num_inference_steps=steps, **row.call)
    if not profile.complete:
        raise RuntimeError(f"{row.id}: {profile.error}")
    return profile


@contextmanager
def _as_then(row: Row) -> Iterator[None]:
    """Set torch as it was when the row was timed."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    if "TF32" in row.comments:
        torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
