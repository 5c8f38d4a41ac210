"""What `plans.py` runs: models with a call each, budgets, and the ways to keep within them. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from profiler.units import GIB

CALLS: dict[str, dict[str, Any]] = {
    "sdxl-turbo": {"num_inference_steps": 4, "guidance_scale": 0.0},
    "sdxl-base": {"num_inference_steps": 20},
    "flux1-dev": {"num_inference_steps": 20},
    "qwen-image": {"num_inference_steps": 20},
    "cogvideox-5b": {"num_inference_steps": 10},
    "wan2.1-t2v-14b": {"num_inference_steps": 5},
}
"""Few steps of the long ones, so that a case fits into ten minutes: what is copied counts for more in them."""
FEW_STEPS = {"num_inference_steps": 4}  # of a model that is not named above
BUDGETS_GIB = (8, 12, 16, 24, 40)

RESIDENT = "resident"
MODEL_OFFLOAD = "model offload"
MANAGER = "ComponentsManager"
MMGP = {"mmgp, profile 2": "HighRAM_LowVRAM", "mmgp, profile 4": "LowRAM_LowVRAM"}
OURS = "our plan"
PRESETS = (
    MODEL_OFFLOAD,
    "sequential offload",
    "group, block by block",
    "group, by leaf",
    "group, by leaf, stream",
    "group, by leaf, recorded stream",
    "group, by leaf, stream, low_cpu_mem",
)
WAYS = (OURS, MODEL_OFFLOAD, RESIDENT, *PRESETS[1:], MANAGER, *MMGP)
FEW = 8  # steps of an image pipeline for which the weights' way to the GPU counts most


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model under one budget, in one way."""

    model: str
    budget_bytes: int
    way: str

    @property
    def id(self) -> str:
        """What names it in files and on the command line."""
        return f"{self.model}:{self.budget_bytes / GIB:g}GiB:{self.way}"

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of a call, besides those that the pipeline cannot do without."""
        return CALLS.get(self.model, FEW_STEPS)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "call": self.call}


def all_cases(models: tuple[str, ...], budgets_bytes: tuple[int, ...]) -> list[Case]:
    """Return every case: of each model and budget ours and model offload first, so that one cut short can be read."""
    return [
        Case(model=model, budget_bytes=budget, way=way)
        for model in models
        for budget in budgets_bytes
        for way in WAYS
    ]
