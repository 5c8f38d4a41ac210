"""Calls whose prompt was encoded before: the embeddings are what the call takes, and no text encoder runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from shallow_models import shallow_pipeline
from tiny_folder import write_tiny_pipeline

from profiler.errors import FindingError, InputError
from profiler.libraries.modes import Mode
from profiler.libraries.modules import components_of
from profiler.libraries.placing import enable_mode
from profiler.pipelines.cached_prompt import with_cached_prompt
from profiler.sizing.remedy import with_remedy
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, profile_model, verify_plan
from profiler.tracing import profile_pipeline
from profiler.units import GIB, MIB
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


@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_encoding_leaves_nothing_but_the_embeddings_wherever_the_pipeline_is(mode):
    """PixArt's call takes the embeddings of a prompt and of none, both with their masks."""
    with VirtualGPU("rtx-4090") as gpu:
        pipe = shallow_pipeline("pixart-sigma-xl")
        enable_mode(pipe, Mode(name=mode))
        placed = [one.device for part in components_of(pipe).values() for one in part.parameters()]
        before = torch.cuda.memory_allocated()
        host = vars(gpu.host).copy()
        arguments = with_cached_prompt(pipe, {"prompt": "a cat"})
        made = [one for one in arguments.values() if isinstance(one, torch.Tensor)]
        assert [(tuple(one.shape), one.dtype, one.device.type) for one in made] == [
            ((1, 300, 4096), torch.float16, "cuda"),
            ((1, 300), torch.int64, "cuda"),
        ] * 2
        # 300 x 4096 x 2 bytes are 2,457,600; 300 x 8 are 2,400, in blocks of 512 bytes 2,560.
        assert torch.cuda.max_memory_allocated() - before == 2 * (2_457_600 + 2_560)
        assert vars(gpu.host) == host
        assert placed == [
            one.device for part in components_of(pipe).values() for one in part.parameters()
        ]


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """A folder whose encoder takes 2.1 GB and the rest next to nothing."""
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("beyond"))
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 40}
    for part, changes in (("text_encoder", wide), ("unet", {"cross_attention_dim": 1024})):
        config = folder / part / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return Scenario(
        model=str(folder), capacity="1GiB", mode=Mode(name="resident"), steps=1, cached_prompt=True
    )


def test_a_prompt_can_be_cached_for_a_gpu_that_its_encoder_exceeds(beyond):
    assert profile_model(replace(beyond, mode=Mode(name="model"))).complete
    plan = plan_model(beyond, GIB)
    assert verify_plan(plan).held


def test_an_encoder_that_is_placed_all_the_same_runs_out_of_memory_and_has_its_remedy(beyond):
    profile = with_remedy(profile_model(beyond), beyond)
    assert profile.failure.out_of_memory
    assert profile.failure.remedy.startswith("A plan would have fitted")


def test_no_room_for_the_embeddings_is_a_finding():
    with VirtualGPU("rtx-4090") as gpu:
        pipe = shallow_pipeline("pixart-sigma-xl")
        kept = torch.empty(
            gpu.capacity_bytes - gpu.spec.context_bytes - MIB, device="cuda", dtype=torch.uint8
        )
        with pytest.raises(FindingError, match="there is no room for the embeddings"):
            with_cached_prompt(pipe, {"prompt": "a cat"})
        del kept


def test_a_pipeline_without_a_prompt_says_so():
    with (
        VirtualGPU("rtx-4090"),
        pytest.raises(InputError, match="StableVideoDiffusionPipeline has no encode_prompt"),
    ):
        profile_pipeline(shallow_pipeline("stable-video-diffusion"), cached_prompt=True)
