"""What `validate.py` runs, the most telling first: models by what they add, modes by what they stress."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from profiler.libraries.modes import Mode

MODELS = (
    "flux1-dev",
    "sdxl-base",
    "sd15",
    "cogvideox-5b",
    "wan2.1-t2v-1.3b",
    "qwen-image",
    "wan2.1-t2v-14b",
    "sd3-medium",
    "z-image-turbo",
    "ltx-video",
    "pixart-sigma-xl",
    "kolors",
    "chroma",
    "hunyuanvideo",
    "mochi-1",
    "sd35-large",
    "flux2-klein-4b",
    "sana-1600m",
    "auraflow",
    "hunyuandit",
    "cogvideox-2b",
)
MODES: dict[str, dict[str, Any]] = {
    "resident": {"name": "resident"},
    "model": {"name": "model"},
    "group-leaf-stream": {"name": "group-leaf", "stream": True},
    "sequential": {"name": "sequential"},
    "tiling": {"name": "model", "vae_tiling": True},
    "group-block": {"name": "group-block"},
    "layerwise": {"name": "resident", "layerwise_casting": True},
    "group-leaf": {"name": "group-leaf"},
}
PLAN = "plan"  # beside the modes: the best plan under a budget, by the planner
STEPS = 2
BATCHES = {"flux1-dev": 4, "sdxl-base": 4}  # resident once more with several images per prompt


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: a model, how it is placed, how it is called."""

    model: str
    mode: str  # a key of MODES, or PLAN
    call: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What names it in files and on the command line."""
        extra = "".join(f"+{name}={value}" for name, value in sorted(self.call.items()))
        return f"{self.model}:{self.mode}{extra}"

    @property
    def placement(self) -> Mode:
        """The mode of a case that is no plan; a plan is made from the run with model offload."""
        return Mode(**MODES["model" if self.mode == PLAN else self.mode])

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def all_cases(models: tuple[str, ...] = MODELS) -> list[Case]:
    """Return every case, so that a run cut short has tried every kind on the first models."""
    leading, following = models[:2], models[2:]
    modes = (*MODES, PLAN)
    first = [Case(model=model, mode=mode) for model in leading for mode in modes]
    batches = [
        Case(model=model, mode="resident", call={"num_images_per_prompt": count})
        for model, count in BATCHES.items()
        if model in models
    ]
    common = ("resident", "model")
    then = [Case(model=model, mode=mode) for model in following for mode in common]
    rest = [
        Case(model=model, mode=mode) for model in following for mode in modes if mode not in common
    ]
    return [*first, *batches, *then, *rest]
