"""Every pipeline class of diffusers is a catalogue model's own, runs over one's components, or says why it does not."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import diffusers
import pytest
from daily import daily

from profiler.pipelines import catalogue, load_pipeline
from profiler.pipelines.modular import find_blocks
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = tomllib.loads((Path(__file__).parent / "pipeline_classes.toml").read_text("utf-8"))
OVER, MISSING = CLASSES["over"], CLASSES["missing"]

# One for each word that makes a call differ: a picture, a mask, a video.
DAILY = ("FluxImg2ImgPipeline", "StableDiffusion3InpaintPipeline", "CogVideoXVideoToVideoPipeline")

# Where the class's own size takes long.
SMALLER = {
    "LTXI2VLongMultiPromptPipeline": {"num_frames": 25},
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": {"num_frames": 9},
    "WanVideoToVideoPipeline": {"height": 320, "width": 512},
}


def is_current(cls):
    """Tell whether a class is one of diffusers' own pipelines, and not deprecated."""
    if not inspect.isclass(cls) or not issubclass(cls, diffusers.DiffusionPipeline):
        return False
    return "deprecated" not in cls.__module__ and not cls.__name__.startswith(("Auto", "Onnx"))


def test_every_class_is_run_or_says_why_not():
    names = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    current = {name for name in names if is_current(getattr(diffusers, name))}
    own = {entry.pipeline_class for entry in catalogue().values()}

    # A class that lacks a library is not seen here, and says so where it is listed.
    assert current - own - {"DiffusionPipeline"} <= {*OVER, *MISSING}
    assert not set(OVER) & set(MISSING)
    assert not own & {*OVER, *MISSING}
    assert set(OVER.values()) <= set(catalogue())


def test_a_model_of_the_catalogue_has_a_class_of_diffusers():
    for entry in catalogue().values():
        found = getattr(diffusers, entry.pipeline_class)
        assert is_current(found) or find_blocks(entry.pipeline_class) is not None


@pytest.mark.parametrize("name", daily(DAILY, OVER))
def test_class_runs_over_the_components_of_a_model(name):
    with VirtualGPU("h200"):
        pipe = load_pipeline(OVER[name], pipeline_class=name)
        call = {"num_inference_steps": 2, **SMALLER.get(name, {})}
        profile = profile_pipeline(pipe, mode="model", **call)

    assert (profile.error, profile.complete) == ("", True)
