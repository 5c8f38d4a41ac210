"""Every catalogue model under every mode of diffusers, and what stock diffusers 0.42.1 cannot run of it.

The models are shallow (`shallow_models.py`) and their videos short: neither hides a way to fail, and `make zoo` runs
them whole. One virtual GPU serves all modes of a model, so that each operator is learned once.
"""

from __future__ import annotations

import functools
import gc
from typing import NamedTuple

from shallow_models import shallow_pipeline
from zoo import MODES

from profiler.errors import InputError
from profiler.gpus.hardware import gpu_spec
from profiler.pipelines.blank_inputs import call_parameters
from profiler.pipelines.sensible_call import blank_pictures
from profiler.record.profile import Profile
from profiler.tracing import profile_pipeline
from profiler.units import TIB
from profiler.virtual import VirtualGPU

VIDEOS = {  # model: frames
    "allegro": 8,
    "animatediff": 4,
    "animatediff-sdxl": 4,
    "anyflow-t2v-1.3b": 5,
    "anyflow-t2v-14b": 5,
    "chronoedit-14b": 5,
    "cogvideox-2b": 9,
    "cogvideox-5b": 9,
    "cogvideox-5b-i2v": 9,
    "cogvideox1.5-5b": 9,
    "easyanimate-v5.1-12b": 5,
    "framepack": 36,
    "helios-base": 33,
    "hunyuanvideo": 5,
    "hunyuanvideo-i2v": 5,
    "hunyuanvideo1.5-i2v": 5,
    "hunyuanvideo1.5-t2v": 5,
    "joyai-echo": 9,
    "kandinsky5-i2v-pro": 5,
    "kandinsky5-t2v-lite": 5,
    "kandinsky5-t2v-pro": 5,
    "kandinsky6-lite": 5,
    "kandinsky6-pro": 5,
    "kandinsky6-pro-distill": 5,
    "latte-1": 4,
    "ltx-2": 9,
    "ltx-2.3": 9,
    "ltx-video": 9,
    "ltx-video-0.9.5": 9,
    "ltx-video-0.9.7-13b": 9,
    "ltx-video-0.9.8-13b-distilled": 9,
    "lucy-edit-dev": 5,
    "minimax-h3": 124,
    "mochi-1": 7,
    "sana-video-2b": 5,
    "skyreels-v2-df-1.3b": 9,
    "skyreels-v2-df-14b": 9,
    "skyreels-v2-i2v-14b": 9,
    "skyreels-v2-t2v-14b": 9,
    "stable-video-diffusion": 2,
    "wan2.1-flf2v-14b": 5,
    "wan2.1-i2v-14b": 5,
    "wan2.1-i2v-14b-720p": 5,
    "wan2.1-t2v-1.3b": 5,
    "wan2.1-t2v-14b": 5,
    "wan2.1-vace-1.3b": 5,
    "wan2.1-vace-14b": 5,
    "wan2.2-animate-14b": 5,
    "wan2.2-animate-2-14b": 5,
    "wan2.2-animate-2-14b-distilled": 5,
    "wan2.2-i2v-a14b": 5,
    "wan2.2-t2v-a14b": 5,
    "wan2.2-ti2v-5b": 5,
}
# What their calls name the frames, if not num_frames.
FRAMES = {
    "latte-1": "video_length",
    "sana-video-2b": "frames",
    "wan2.2-animate-14b": "segment_frame_length",
    "wan2.2-animate-2-14b": "segment_frame_length",
    "wan2.2-animate-2-14b-distilled": "segment_frame_length",
}

# Two by two of the smallest tiles.
SIZE = {"height": 320, "width": 320}
# Eight of the three hidden states that there are, and few words of a prompt that is written out.
FLUX3 = {"text_encoder_out_layers": (0, 1, 2, 0, 1, 2, 0, 1), "max_new_tokens": 2}
# These round the size to one of their own, read hidden states of their text encoder by number, or take the noise of
# each step instead of a number of steps; and the shortest music.
CALLS = {
    "flux2-dev": {"text_encoder_out_layers": (0, 1, 2)},
    "flux2-klein-4b": {"text_encoder_out_layers": (0, 1, 2)},
    "flux2-klein-9b": {"text_encoder_out_layers": (0, 1, 2)},
    "flux2-klein-base-4b": {"text_encoder_out_layers": (0, 1, 2)},
    "flux2-klein-base-9b": {"text_encoder_out_layers": (0, 1, 2)},
    "flux3-klein": FLUX3,
    "flux3-klein-base": FLUX3,
    "hunyuandit": {"use_resolution_binning": False},
    "joyai-echo": {"sigmas": (1.0, 0.5, 0.0)},
    "minimax-music3": {"audio_duration": 0.4},
    "pixart-alpha-xl": {"use_resolution_binning": False},
    "pixart-sigma-xl": {"use_resolution_binning": False},
    "sana-1600m": {"use_resolution_binning": False},
}

# Their schedulers refuse a single step, divide by zero for it, or give no second result.
TWO_STEPS = ("ltx-video", "minimax-h3", "mochi-1", "pixart-alpha-xl")

# What stock diffusers cannot run on the virtual GPU; by its code, not on a real one either:
# - with a stream, group offload keeps pinned half-precision copies, while the pipeline casts this VAE to single
#   precision;
STALE_PINS = {
    "group-block-stream": "RuntimeError in vae: mixed dtype (CPU): expect parameter to have scalar type of Float",
    "group-leaf-stream": "RuntimeError in vae: Input type (float) and bias type (c10::Half) should be the same",
}
# - block-level group offload hooks the `forward` of a VAE without `_group_offload_block_modules`, which decode never
#   calls;
NO_BLOCKS = "RuntimeError in vae: Expected all tensors to be on the same device, but found at least"
# - sequential offload hooks the projections of an attention pool, whose `forward` takes their weights past them;
POOL = "RuntimeError in transformer: Expected all tensors to be on the same device, but found at least two devices"
# - a class says so itself.
NO_GROUPS = "HunyuanDiTPipeline cannot be placed in mode group-{}: HunyuanDiT2DModel does not support group offloading"
NO_TILES = "StableVideoDiffusionPipeline cannot be placed in mode model: Tiling doesn't seem to be implemented for"

# - the convolution of Qwen3.5's linear attention takes the weight of its layer past the hooks that would fetch it;
PAST_HOOKS = (
    "RuntimeError in prompt_upsampler: Expected all tensors to be on the same device, but found"
)
FLUX3_FAILS = {
    "sequential": "NotImplementedError in prompt_upsampler: Cannot copy out of meta tensor; no data!",
    "group-block": NO_BLOCKS,
    "group-block-stream": NO_BLOCKS,
    "group-leaf": PAST_HOOKS,
    "group-leaf-stream": PAST_HOOKS,
}
# - `weight_norm` makes weights of sound decoders before the hooks fetch what it makes them of, the class of one of them
#   says so itself, and the blocks of music embed tokens without the call that would fetch the language model's;
NORMED = (
    "RuntimeError in vocoder: Expected all tensors to be on the same device, but found at least"
)
UNCALLED = (
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices"
)
NO_AUDIO_GROUPS = (
    "MiniMaxH3ModularPipeline cannot be placed in mode group-{}: AutoencoderKLMiniMaxH3Audio"
)
H3_FAILS = {
    "sequential": "RuntimeError in audio_vae: Expected all tensors to be on the same device, but found",
    "group-block": NO_AUDIO_GROUPS.format("block"),
    "group-block-stream": NO_AUDIO_GROUPS.format("block"),
    "group-leaf": NO_AUDIO_GROUPS.format("leaf"),
    "group-leaf-stream": NO_AUDIO_GROUPS.format("leaf"),
}
MUSIC_FAILS = {
    "sequential": NORMED,
    "group-block": UNCALLED,
    "group-block-stream": UNCALLED,
    "group-leaf": NORMED,
    "group-leaf-stream": NORMED,
    "tiling": "MiniMaxMusic3ModularPipeline has no VAE with enable_tiling()",
}
# - the transformer moves what it is given to where the weights of a layer are, which is nowhere between two calls.
NOWHERE = "NotImplementedError in transformer: Cannot copy out of meta tensor; no data!"

FAILS = {
    **{
        (model, mode): told
        for model in (
            "auraflow",
            "kolors",
            "sdxl-base",
            "sdxl-controlnet",
            "sdxl-refiner",
            "sdxl-turbo",
        )
        for mode, told in STALE_PINS.items()
    },
    **{
        (model, mode): NO_BLOCKS
        for model in (
            "allegro",
            "cogvideox-2b",
            "cogvideox-5b",
            "flux2-dev",
            "flux2-klein-4b",
            "hunyuanvideo",
            "joyai-echo",
            "ltx-video",
            "mochi-1",
            "qwen-image",
            "sana-1600m",
            "stable-video-diffusion",
        )
        for mode in ("group-block", "group-block-stream")
    },
    **{
        (model, mode): told
        for model in ("flux3-klein", "flux3-klein-base")
        for mode, told in FLUX3_FAILS.items()
    },
    ("wan2.2-animate-2-14b", "sequential"): NOWHERE,
    ("wan2.2-animate-2-14b-distilled", "sequential"): NOWHERE,
    **{("minimax-h3", mode): told for mode, told in H3_FAILS.items()},
    **{("minimax-music3", mode): told for mode, told in MUSIC_FAILS.items()},
    ("hunyuandit", "sequential"): POOL,
    ("hunyuandit", "group-block"): NO_GROUPS.format("block"),
    ("hunyuandit", "group-block-stream"): NO_GROUPS.format("block"),
    ("hunyuandit", "group-leaf"): NO_GROUPS.format("leaf"),
    ("hunyuandit", "group-leaf-stream"): NO_GROUPS.format("leaf"),
    ("stable-video-diffusion", "group-leaf-stream"): STALE_PINS["group-leaf-stream"],
    ("stable-video-diffusion", "tiling"): NO_TILES,
}

# Its transformer's rotary frequencies stay in a cache of diffusers' that no pipe ever leaves: 2 x 4096 positions of 64
# complex numbers on the GPU and on the host, and on the GPU those of the picture's 20 x 20 tokens. (GPU, host)
KEPT = {("qwen-image", mode): (8 * 64 * (2 * 4096 + 400), 8 * 64 * 2 * 4096) for mode in MODES}
# Likewise the cosines and sines of 32 numbers for each of 35 latents of music, where its transformer runs.
KEPT |= {
    ("minimax-music3", mode): (2 * 35 * 32 * 4, 0)
    for mode in MODES
    if not mode.startswith("group-block") and mode != "tiling"
}


class Run(NamedTuple):
    """One run as the tracer has it, and as the virtual GPU has it."""

    profile: Profile | None  # None where the mode was refused
    refused: str
    h2d_bytes: int
    d2h_bytes: int
    peak_bytes: int
    left_bytes: int  # on the GPU, when the pipe was gone
    host_bytes: int  # of the host's memory besides what the model takes that the twin is made from

    @property
    def outcome(self) -> str:
        """What went wrong; "" where nothing did."""
        return self.profile.error if self.profile else self.refused


@functools.cache
def runs(model) -> dict[str, Run]:
    """Return the runs of a model by mode."""
    with VirtualGPU(gpu_spec("h200").with_capacity(TIB)) as gpu:
        pipe = shallow_pipeline(model)
        gc.collect()
        gc.freeze()  # what is there already need not be looked at again after each run
        try:
            return {name: _run(gpu, pipe, model, mode) for name, mode in MODES.items()}
        finally:
            gc.unfreeze()


def _run(gpu, pipe, model, mode) -> Run:
    counted = gpu.h2d_bytes, gpu.d2h_bytes, _host_bytes(gpu)
    held_bytes = _gpu_bytes(gpu)
    gpu.allocator.reset_peak()
    taken = call_parameters(pipe)
    sized = "height" in taken
    call = {**(SIZE if sized else blank_pictures(pipe, SIZE)), **CALLS.get(model, {})}
    if model in VIDEOS:
        call[FRAMES.get(model, "num_frames")] = VIDEOS[model]
    # The second step of group offload differs from the first.
    if "num_inference_steps" in taken:
        two = mode.name.startswith("group") or model in TWO_STEPS
        call["num_inference_steps"] = 2 if two else 1
    profile, refused = None, ""
    try:
        profile = profile_pipeline(gpu.lend(pipe), mode=mode, **call)
    except InputError as error:
        refused = str(error)
    peak_bytes = gpu.allocator.peak_bytes
    gc.collect()
    return Run(
        profile,
        refused,
        gpu.h2d_bytes - counted[0],
        gpu.d2h_bytes - counted[1],
        peak_bytes,
        _gpu_bytes(gpu) - held_bytes,
        _host_bytes(gpu) - counted[2],
    )


def _gpu_bytes(gpu) -> int:
    """Return what tensors on the GPU ask for; cuBLAS's workspaces, one a stream, stay."""
    gpu.empty_cache()  # and so those that a stream was not done with
    workspace_bytes = gpu.spec.cublas_workspace_bytes
    streams = gpu.workspace_bytes // workspace_bytes
    return gpu.allocator.all.requested_bytes.current - streams * workspace_bytes


def _host_bytes(gpu) -> int:
    """Return what the host's memory holds, without the pinned blocks that PyTorch keeps for later."""
    gpu.host.pinned.empty_cache()
    return gpu.host.total_bytes


def check(model, mode) -> None:
    """Assert that a run ended as it must, counted what crossed the link, and left nothing behind."""
    run = runs(model)[mode]
    expected = FAILS.get((model, mode), "")
    assert run.outcome.startswith(expected), run.outcome
    assert bool(run.outcome) == bool(expected), run.outcome
    assert (run.left_bytes, run.host_bytes) == KEPT.get((model, mode), (0, 0))
    if run.profile is None:
        return
    totals = run.profile.totals
    assert (totals.h2d_bytes, totals.d2h_bytes) == (run.h2d_bytes, run.d2h_bytes)
    assert totals.peak_allocated_bytes == run.peak_bytes
    assert sum(item.bytes for item in run.profile.bill) == run.peak_bytes
    _check_residency(run.profile)


def _check_residency(profile) -> None:
    """Assert that no component ever has more on the GPU than it has, and everything resident stays there."""
    # Casting to single precision doubles a VAE; accelerate rounds each tensor up.
    whole = {part.name: 2 * part.allocated_bytes for part in profile.components}
    for event in profile.events:
        assert 0 <= event.resident_bytes <= whole.get(event.component, event.resident_bytes), event
    assert not (profile.mode == "resident" and any(e.kind == "offload" for e in profile.events))
