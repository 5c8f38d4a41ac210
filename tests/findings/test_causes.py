"""Findings that name the cause, on real runs: gradients that are kept, a memory fraction, a size that was changed."""

import dataclasses

import numpy as np
import pytest
import replay_worlds
import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from PIL import Image
from tiny_pipelines import Act, Script, build

from profiler.gpus import hardware
from profiler.pipelines.quiet import quiet
from profiler.record.finding import PROBLEM, WASTE
from profiler.tracing import profile_pipeline, trace
from profiler.tracing.made_size import other_size
from profiler.units import MIB
from profiler.virtual import VirtualGPU


def gpu(name="rtx-4090", room=None):
    spec = dataclasses.replace(hardware.gpu_spec(name), slack_bytes=0)
    return VirtualGPU(spec if room is None else spec.with_capacity(spec.context_bytes + room))


def kinds(profile):
    return {finding.kind: finding for finding in profile.findings}


def denoised(guard):
    """Return the profile of two calls of a UNet itself, as a loop of one's own makes them."""
    with gpu(), quiet():
        pipe, _ = replay_worlds.FAMILIES["sd15"]()
        pipe.to("cuda")
        latents = torch.zeros(2, 4, 32, 32, device="cuda")
        states = torch.zeros(2, 77, pipe.unet.config.cross_attention_dim, device="cuda")
        with trace(pipe) as tracing, guard:
            results = [pipe.unet(latents, step, states).sample for step in (900, 500)]
        del results
    return tracing.profile


def test_gradients_that_are_kept_are_told_with_what_they_hold_and_the_fix_frees_it():
    kept, freed = denoised(torch.enable_grad()), denoised(torch.no_grad())
    found = kinds(kept)["gradients_kept"]
    assert (found.severity, found.components) == (WASTE, ("unet",))
    assert found.fix.startswith("with torch.no_grad():")
    results = 2 * 2 * 4 * 32 * 32 * 4
    more = kept.events[-1].after_bytes - freed.events[-1].after_bytes
    # At least: what a convolution took at the peak is not told apart from cuBLAS's workspace, which stays.
    assert 0 <= more + results - found.bytes < MIB
    assert more > 10 * results
    assert "gradients_kept" not in kinds(freed)


def test_a_call_of_the_pipeline_keeps_no_gradients():
    with gpu(), quiet():
        pipe, call = replay_worlds.FAMILIES["sd15"]()
        profile = profile_pipeline(pipe, mode="model", **{"num_inference_steps": 1, **call})
    assert profile.complete
    assert "gradients_kept" not in kinds(profile)


def test_a_memory_fraction_is_named_where_the_gpu_had_room():
    """Of 200 MiB beside the context 100 are allowed: 120 would fit the GPU."""
    script = Script({"a": (60 * MIB // 2, 60 * MIB // 2)}, (Act("run", "a"),))
    with gpu(room=200 * MIB) as spec, quiet():
        capacity = spec.capacity_bytes
        pipe = build(script)
        torch.cuda.set_per_process_memory_fraction(100 * MIB / capacity)
        profile = profile_pipeline(pipe, mode="resident")
    found = kinds(profile)["out_of_memory"]
    assert found.severity == PROBLEM
    assert "set_per_process_memory_fraction allows 100.0 MiB" in found.detail
    assert found.fix.startswith("torch.cuda.set_per_process_memory_fraction(1.0)")
    assert found.bytes == 20 * MIB
    with gpu(room=200 * MIB), quiet():
        assert profile_pipeline(build(script), mode="resident").complete


def test_a_memory_fraction_is_not_blamed_where_the_gpu_is_full():
    script = Script({"a": (160 * MIB // 2, 60 * MIB // 2)}, (Act("run", "a"),))
    with gpu(room=200 * MIB), quiet():
        pipe = build(script)
        torch.cuda.set_per_process_memory_fraction(0.99)
        found = kinds(profile_pipeline(pipe, mode="resident"))["out_of_memory"]
    assert "fraction" not in found.detail + found.fix


def pixart():
    """Return a tiny PixArt that is trained on 256 x 256, in half precision."""
    pipe, _ = replay_worlds.FAMILIES["sd15"]()
    transformer = PixArtTransformer2DModel(
        sample_size=32,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=8,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
    )
    return PixArtSigmaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=pipe.vae,
        transformer=transformer,
        scheduler=pipe.scheduler,
    )


@pytest.mark.parametrize(
    ("asked", "run"), [((64, 64), "256 x 256"), ((256, 256), ""), ((64, 128), "176 x 352")]
)
def test_a_size_that_the_pipeline_bins_is_told_with_the_one_that_was_run(asked, run):
    height, width = asked
    with gpu(), quiet():
        embeddings = {
            f"{sign}prompt_{what}": torch.zeros(shape, device="cuda")
            for sign in ("", "negative_")
            for what, shape in (("embeds", (1, 4, 8)), ("attention_mask", (1, 4)))
        }
        call = {"prompt": None, "negative_prompt": None, **embeddings, "num_inference_steps": 1}
        profile = profile_pipeline(pixart(), mode="resident", height=height, width=width, **call)
    assert profile.complete, profile.error
    found = kinds(profile).get("size_binned")
    if not run:
        assert found is None
        return
    assert found.title == f"{height} x {width} was asked for and {run} was run"
    assert found.fix.startswith("pipe(..., use_resolution_binning=False)")


@pytest.mark.parametrize(
    ("family", "asked", "told", "fix"),
    [
        (
            "sd15",
            {"height": 64},
            "height 64 was asked for and 32 x 32 was made",
            "height=64, width=32",
        ),
        ("sd15", {"height": 64, "width": 64}, "", ""),
        ("sdxl", {"height": 64}, "", ""),
        (
            "flux",
            {"height": 74, "width": 61},
            "74 x 61 was asked for and 72 x 60 was made",
            "height=72, width=60",
        ),
        ("flux", {"height": 74, "width": 61, "output_type": "latent"}, "", ""),
    ],
)
def test_a_picture_of_another_size_than_asked_for_is_told(family, asked, told, fix):
    with gpu(), quiet():
        pipe, call = replay_worlds.FAMILIES[family]()
        call = {name: value for name, value in call.items() if name not in ("height", "width")}
        pipe.vae.register_to_config(shift_factor=0.0)  # which FLUX adds
        if family == "flux":  # whose embeddings are in half precision, and its pictures like them
            pipe.transformer.to(torch.float16)
            pipe.vae.to(torch.float16)
        profile = profile_pipeline(pipe, mode="model", **call | {"output_type": "pt"} | asked)
    assert profile.complete, profile.error
    found = kinds(profile).get("size_not_as_asked")
    assert (found.title if found else "") == told
    assert found is None or found.fix == f"pipe(..., {fix})"


@pytest.mark.parametrize(
    "made",
    [
        Image.new("RGB", (48, 32)),
        np.zeros((32, 48, 3)),
        np.zeros((1, 32, 48, 3)),
        torch.zeros(1, 3, 32, 48),
        torch.zeros(1, 5, 3, 32, 48),
        [[Image.new("RGB", (48, 32))] * 2],
    ],
    ids=["picture", "array", "arrays", "tensor", "video", "frames"],
)
def test_the_size_of_whatever_a_pipeline_returns_is_read(made):
    def call(prompt, height=None, width=None):
        raise AssertionError

    for result in (made, [made], (made, None), StableDiffusionPipelineOutput([made], None)):
        assert not other_size(call, ("a cat", 32), {"width": 48}, result)
        assert other_size(call, ("a cat",), {"width": 32}, result) == "- x 32 -> 32 x 48"


@pytest.mark.parametrize("made", [None, [], (), "none", 3, torch.zeros(3), object()])
def test_what_is_no_picture_has_no_size(made):
    assert not other_size(lambda height: None, (), {"height": 32}, made)
