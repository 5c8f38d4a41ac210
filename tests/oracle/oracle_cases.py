"""The cases that the oracle and the virtual GPU both run: a model, a GPU, a placement, and what is special about it."""

from __future__ import annotations

from dataclasses import dataclass

# Turing has neither bfloat16 in hardware nor flash attention, Ada flash attention, Hopper cuDNN's attention.
GPUS = ("t4", "rtx-4090", "h100-sxm")
STEPS = 2
CALLS = 2

SMALL = ("sd15", "sd21", "lcm-dreamshaper-v7", "sd15-controlnet")
SDXL = ("sdxl-base", "sdxl-controlnet", "sdxl-turbo", "sdxl-refiner", "sdxl-inpaint", "kolors")
TRANSFORMERS = (
    "flux1-dev",
    "flux1-schnell",
    "flux2-klein-4b",
    "flux2-dev",
    "sd3-medium",
    "sd35-large",
    "pixart-alpha-xl",
    "pixart-sigma-xl",
    "hunyuandit",
    "auraflow",
    "chroma",
    "sana-1600m",
    "qwen-image",
    "z-image-turbo",
)
VIDEOS = (
    "cogvideox-2b",
    "cogvideox-5b",
    "ltx-video",
    "wan2.1-t2v-1.3b",
    "wan2.1-t2v-14b",
    "wan2.2-t2v-a14b",
    "wan2.1-i2v-14b",
    "hunyuanvideo",
    "mochi-1",
    "allegro",
    "stable-video-diffusion",
)
MODELS = SMALL + SDXL + TRANSFORMERS + VIDEOS

# Fewer frames than a model's default: what decides memory stays, and a case takes seconds.
FRAMES = {
    "allegro": 24,
    "cogvideox-2b": 17,
    "cogvideox-5b": 17,
    "hunyuanvideo": 17,
    "ltx-video": 33,
    "mochi-1": 13,
    "stable-video-diffusion": 7,
    "wan2.1-i2v-14b": 17,
    "wan2.1-t2v-1.3b": 17,
    "wan2.1-t2v-14b": 17,
    "wan2.2-t2v-a14b": 17,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pipeline, placed and called `CALLS` times."""

    gpu: str
    model: str
    mode: str  # as `Mode.name`, with +stream, +record, +tiling, +layerwise
    capacity: str = ""  # in place of the GPU's own: 8GiB
    expandable: bool = False  # expandable_segments
    settings: str = ""  # others of PYTORCH_ALLOC_CONF

    @property
    def name(self) -> str:
        """The name of its results."""
        extras = (self.capacity, "expandable" * self.expandable, self.settings)
        return " ".join([self.gpu, self.model, self.mode, *filter(None, extras)])

    @property
    def allocator(self) -> str:
        """What PYTORCH_ALLOC_CONF is; "" where it is not set."""
        return ",".join(filter(None, ("expandable_segments:True" * self.expandable, self.settings)))


EVERY_PLACEMENT = (
    "sequential",
    "group-block",
    "group-block+stream",
    "group-leaf",
    "group-leaf+stream+record",
    "model+tiling",
    "model+layerwise",
)
# (GPU, models, modes)
MATRIX = (
    # Every model, in the placement most used, in the one that moves most, and resident.
    ("rtx-4090", MODELS, ("model", "group-leaf+stream")),
    ("h100-sxm", MODELS, ("resident",)),
    # Every placement, with a model of each kind.
    (
        "rtx-4090",
        ("sd15", "sdxl-base", "flux1-dev", "wan2.1-t2v-1.3b", "cogvideox-5b"),
        EVERY_PLACEMENT,
    ),
    (
        "h100-sxm",
        ("sdxl-base", "flux1-dev", "pixart-sigma-xl", "wan2.1-t2v-14b"),
        ("model", "group-leaf+stream", "resident+layerwise", "sequential"),
    ),
    # Not layerwise: casting writes the weights, 20 GB here, into the host's memory.
    ("h100-sxm", ("qwen-image",), ("model", "group-leaf+stream", "sequential")),
    # What is run on a Turing GPU.
    (
        "t4",
        (*SMALL, *SDXL, "pixart-alpha-xl", "pixart-sigma-xl", "sd3-medium", "hunyuandit"),
        ("model", "resident"),
    ),
    (
        "t4",
        ("sd15", "sdxl-base", "sd3-medium", "flux1-dev", "cogvideox-2b"),
        ("sequential", "group-block", "group-leaf+stream"),
    ),
)
EXPANDABLE = ("sd15", "sdxl-base", "flux1-dev", "ltx-video", "wan2.1-t2v-1.3b", "cogvideox-2b")
# Capacities that are too small at once, on the way, or not at all.
CAPACITIES = (
    ("sd15", "2GiB"),
    ("sd15", "4GiB"),
    ("sdxl-base", "6GiB"),
    ("sdxl-base", "8GiB"),
    ("flux1-dev", "12GiB"),
    ("flux1-dev", "24GiB"),
    ("wan2.1-t2v-1.3b", "8GiB"),
    ("cogvideox-5b", "12GiB"),
)
# Settings of the allocator, with a placement and a capacity in which they matter.
SETTINGS = (
    ("max_split_size_mb:64", "model", ""),
    ("max_split_size_mb:32,max_non_split_rounding_mb:128", "group-block+stream", ""),
    ("roundup_power2_divisions:4", "model", ""),
    ("roundup_power2_divisions:[1:8,64:2,512:0,>:4]", "resident", ""),
    ("large_segment_size_mb:64", "group-leaf", ""),
    # Of the GPU's own memory: torch reads the fraction when a process first sees the GPU, before a case's capacity.
    ("garbage_collection_threshold:0.5,per_process_memory_fraction:0.9", "model", ""),
    ("pinned_max_round_threshold_mb:16,pinned_max_cached_size_mb:64", "group-leaf+stream", ""),
    ("pinned_reserve_segment_size_mb:256", "group-leaf+stream", ""),
)
# Whose events are compared: every placement, of a UNet, of a transformer beside large encoders, and of a video.
EVENT_CASES = tuple(
    Case(gpu="rtx-4090", model=model, mode=mode)
    for model in ("sd21", "flux1-dev", "wan2.1-t2v-1.3b")
    for mode in (
        "resident",
        "model",
        "sequential",
        "group-block",
        "group-block+stream",
        "group-leaf",
        "group-leaf+stream",
        "group-leaf+stream+record",
    )
)


def cases() -> list[Case]:
    """Return the whole matrix, the cases of one GPU after those of another."""
    found = [
        Case(gpu=gpu, model=model, mode=mode)
        for gpu, models, modes in MATRIX
        for model in models
        for mode in modes
    ]
    found += [
        Case(gpu="rtx-4090", model=model, mode=mode, expandable=True)
        for model in EXPANDABLE
        for mode in ("resident", "model", "group-leaf+stream")
    ]
    found += [
        Case(gpu="rtx-4090", model=model, mode=mode, capacity=capacity)
        for model, capacity in CAPACITIES
        for mode in ("model", "group-leaf+stream")
    ]
    found += [
        Case(gpu="rtx-4090", model=model, mode=mode, capacity=capacity, settings=settings)
        for model in ("sd15", "sdxl-base", "flux1-dev")
        for settings, mode, capacity in SETTINGS
    ]
    return sorted(dict.fromkeys(found), key=lambda case: GPUS.index(case.gpu))
