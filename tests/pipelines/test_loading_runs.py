"""Every entry of the catalogue runs, as the user would call it, on the virtual GPU."""

from __future__ import annotations

import pytest
import torch
from daily import daily

from profiler.pipelines import catalogue, load_pipeline
from profiler.pipelines.blank_inputs import call_parameters
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

# Where the size does not matter to what is tested, and the pipeline's own takes seconds.
SMALLER = {
    "allegro": {"num_frames": 8, "height": 320, "width": 512},
    "anyflow-t2v-1.3b": {"num_frames": 9},
    "anyflow-t2v-14b": {"num_frames": 9},
    "chronoedit-14b": {"num_frames": 9},
    "cogvideox-5b-i2v": {"num_frames": 9},
    "cogvideox1.5-5b": {"num_frames": 9, "height": 480, "width": 720},
    "easyanimate-v5.1-12b": {"num_frames": 9},
    "flux3-klein": {"max_new_tokens": 2},
    "flux3-klein-base": {"max_new_tokens": 2},
    "framepack": {"num_frames": 36, "height": 320, "width": 512},
    "helios-base": {"num_frames": 33},
    "hunyuanvideo": {"num_frames": 9, "height": 320, "width": 512},
    "joyai-echo": {"num_frames": 9, "sigmas": (1.0, 0.5, 0.0)},
    "kandinsky2.2": {"prior_num_inference_steps": 2},
    "minimax-h3": {"height": 320, "width": 512},
    "minimax-music3": {"audio_duration": 0.4},
    "mochi-1": {"num_frames": 7},
    "stable-cascade": {"prior_num_inference_steps": 2},
    "hunyuanvideo-i2v": {"num_frames": 9, "height": 320, "width": 512},
    "hunyuanvideo1.5-i2v": {"num_frames": 9},
    "hunyuanvideo1.5-t2v": {"num_frames": 9, "height": 320, "width": 512},
    "kandinsky5-i2v-pro": {"num_frames": 9},
    "kandinsky5-t2v-lite": {"num_frames": 9},
    "kandinsky5-t2v-pro": {"num_frames": 9},
    "kandinsky6-lite": {"num_frames": 9},
    "kandinsky6-pro": {"num_frames": 9},
    "kandinsky6-pro-distill": {"num_frames": 9},
    "ltx-2": {"num_frames": 9},
    "ltx-2.3": {"num_frames": 9},
    "ltx-video-0.9.7-13b": {"num_frames": 25},
    "ltx-video-0.9.8-13b-distilled": {"num_frames": 25},
    "lucy-edit-dev": {"num_frames": 9},
    "sana-video-2b": {"frames": 9},
    "skyreels-v2-df-1.3b": {"num_frames": 9},
    "skyreels-v2-df-14b": {"num_frames": 9},
    "skyreels-v2-i2v-14b": {"num_frames": 9},
    "skyreels-v2-t2v-14b": {"num_frames": 9},
    "stable-video-diffusion": {"num_frames": 3},
    "wan2.1-flf2v-14b": {"num_frames": 9},
    "wan2.1-i2v-14b": {"num_frames": 9},
    "wan2.1-i2v-14b-720p": {"num_frames": 9},
    "wan2.1-vace-1.3b": {"num_frames": 9},
    "wan2.1-vace-14b": {"num_frames": 9},
    "wan2.2-animate-2-14b": {"height": 320, "width": 320, "segment_frame_length": 13},
    "wan2.2-animate-2-14b-distilled": {"height": 320, "width": 320, "segment_frame_length": 13},
    "wan2.2-animate-14b": {"height": 320, "width": 512, "segment_frame_length": 13},
    "wan2.2-i2v-a14b": {"num_frames": 9},
    "wan2.2-ti2v-5b": {"num_frames": 9},
}

# The first model of each pipeline class runs each time; another one differs in sizes, which other tests count.
FIRST = {entry.pipeline_class: name for name, entry in reversed(catalogue().items())}


def steps(pipe):
    """Echo takes the noise of each step instead."""
    return {"num_inference_steps": 2} if "num_inference_steps" in call_parameters(pipe) else {}


# These write a text token by token, for minutes.
SLOW = {"flux3-klein", "flux3-klein-base", "minimax-music3"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", daily(set(FIRST.values()) - SLOW, catalogue()))
def test_entry_runs_two_steps(name):
    with VirtualGPU("h200"):
        pipe = load_pipeline(name)
        weights = [
            sum(each.numel() * each.element_size() for each in module.parameters())
            for module in pipe.components.values()
            if isinstance(module, torch.nn.Module)
        ]

        profile = profile_pipeline(pipe, mode="model", **steps(pipe), **SMALLER.get(name, {}))

    assert (profile.error, profile.complete) == ("", True)
    assert profile.totals.peak_allocated_bytes > max(weights)
    assert len(profile.steps) >= 1
    # A rule for the memory of every operator; an unknown one widens the error band.
    assert not [one for one in profile.assumptions if one.what.startswith("operator")]
    assert set(catalogue()[name].required_call) <= set(profile.call_defaults)


@pytest.mark.filterwarnings("ignore")
def test_hunyuandit_cannot_be_offloaded_sequentially_as_on_a_real_gpu():
    """Its attention pooling takes the weights of its layers past the hooks that would fetch them."""
    with VirtualGPU("h200"):
        profile = profile_pipeline(
            load_pipeline("hunyuandit"), mode="sequential", num_inference_steps=2
        )

    assert profile.error.startswith(
        "RuntimeError in transformer: Expected all tensors to be on the same device"
    )


@pytest.mark.filterwarnings("ignore")
def test_combined_pipeline_gets_its_progress_bars_back():
    with VirtualGPU("h200"):
        pipe = load_pipeline("kandinsky2.2")

        profile_pipeline(pipe, num_inference_steps=2, prior_num_inference_steps=2)

    inner = (pipe, pipe.prior_pipe, pipe.decoder_pipe)
    assert not [one for one in inner if hasattr(one, "_progress_bar_config")]
