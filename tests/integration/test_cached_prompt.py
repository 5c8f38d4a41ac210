"""Calls whose prompt was encoded before: the embeddings are what the call takes, and no text encoder runs."""

from __future__ import annotations

import pytest
from shallow_models import shallow_pipeline

from profiler.errors import InputError
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU


def text_encoders_entered(profile):
    return {e.component for e in profile.events if e.kind == "enter" and "text" in e.component}


def after_encoding(profile):
    return [
        (e.kind, e.component, e.entry, e.dtype)
        for e in profile.events
        if e.phase in ("denoise", "decode") and e.kind in ("enter", "exit", "cast")
    ]


@pytest.mark.parametrize(
    "model",
    ["sd15", "sdxl-base", "sd3-medium", "qwen-image", "pixart-sigma-xl", "sana-1600m", "kolors"],
)
def test_no_text_encoder_runs_and_the_rest_is_as_it_was(model):
    call = {"height": 256, "width": 256, "num_inference_steps": 2, "mode": "model"}
    with VirtualGPU("rtx-4090"):
        words = profile_pipeline(shallow_pipeline(model), **call)
    with VirtualGPU("rtx-4090"):
        cached = profile_pipeline(shallow_pipeline(model), cached_prompt=True, **call)
    assert (words.complete, cached.complete) == (True, True), (words.error, cached.error)
    assert text_encoders_entered(words)
    assert not text_encoders_entered(cached)
    assert cached.call == {**words.call, "cached_prompt": True}
    assert after_encoding(cached) == after_encoding(words)


def test_a_pipeline_without_a_prompt_says_so():
    with (
        VirtualGPU("rtx-4090"),
        pytest.raises(InputError, match="StableVideoDiffusionPipeline has no encode_prompt"),
    ):
        profile_pipeline(shallow_pipeline("stable-video-diffusion"), cached_prompt=True)
