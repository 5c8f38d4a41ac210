"""What a user does to a pipeline when loading it: components left out, adapters, ControlNets, settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapters import lora_state_dict
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from safetensors.torch import save_file
from shallow_models import shallow_pipeline
from tiny_flux import write_tiny_flux
from tiny_folder import write_tiny_pipeline

from profiler.errors import InputError
from profiler.pipelines import load_pipeline
from profiler.pipelines.catalogue import find_entry
from profiler.pipelines.controlnets import with_controlnets
from profiler.pipelines.pipeline_options import PipelineOptions, pipeline_options_of
from profiler.pipelines.preparing import described_with, prepare_pipe
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_pipeline(tmp_path)


def refused(make, **options):
    """Return the sentence with which options are refused."""
    with pytest.raises(InputError) as caught:
        make(PipelineOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_encoder_is_left_out_with_its_tokenizer():
    left = described_with(find_entry("sd3-medium"), PipelineOptions(without=("text_encoder_3",)))

    assert [name for name, part in left.components.items() if part is None] == [
        "text_encoder_3",
        "tokenizer_3",
    ]


def test_what_is_not_there_cannot_be_left_out():
    told = refused(lambda one: described_with(find_entry("sd15"), one), without=("text_encoder_2",))
    assert told.startswith("'sd15' has no component 'text_encoder_2' to leave out: it has ")


def test_lora_of_a_rank_is_the_one_that_diffusers_saves(tiny):
    """Twice the rank, twice the bytes; layers of one's own; a file is read as a rank is made."""
    pipe = load_pipeline(tiny)
    state = lora_state_dict(pipe.unet, "unet", 4, pipe.unet.dtype)
    save_file(state, tiny / "lora.safetensors")
    added = {}
    for lora in ("4", "8", "4:to_q", str(tiny / "lora.safetensors")):
        with VirtualGPU("rtx-4090"):
            whole = load_pipeline(tiny, options=PipelineOptions(loras=(lora,))).unet
            plain = load_pipeline(tiny).unet
            added[lora] = sum(one.nbytes for one in whole.parameters()) - sum(
                one.nbytes for one in plain.parameters()
            )
    rank_4, rank_8, queries, file = added.values()
    assert rank_4 == sum(one.nbytes for one in state.values()) == file
    assert rank_8 == 2 * rank_4
    assert 0 < queries < rank_4


def test_fused_lora_leaves_the_weights_as_many_as_before(tiny):
    with VirtualGPU("rtx-4090"):
        fused = load_pipeline(tiny, options=PipelineOptions(loras=("4", "8"), fuse_lora=True))
        assert sum(one.numel() for one in fused.unet.parameters()) == sum(
            one.numel() for one in load_pipeline(tiny).unet.parameters()
        )


def test_lora_of_a_transformer(tmp_path):
    with VirtualGPU("rtx-4090"):
        pipe = load_pipeline(write_tiny_flux(tmp_path), options=PipelineOptions(loras=("2",)))
        assert list(pipe.transformer.peft_config) == ["lora_1"]


@pytest.mark.parametrize(
    ("pipeline_class", "made"),
    [
        ("StableDiffusionPipeline", "StableDiffusionControlNetPipeline"),
        ("StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
        ("StableDiffusionControlNetPipeline", "StableDiffusionControlNetPipeline"),
    ],
)
def test_class_with_controlnets_is_the_one_for_the_same_task(pipeline_class, made):
    entry = replace(find_entry("sd15"), pipeline_class=pipeline_class)
    assert with_controlnets(entry, ["sd15-controlnet"]).pipeline_class == made


def test_several_controlnets_are_one_component():
    with VirtualGPU("rtx-4090"):
        pipe = load_pipeline("sd15", options=PipelineOptions(controlnets=("", "sd15-controlnet")))
        assert len(pipe.controlnet.nets) == 2


def test_settings_are_made_by_the_calls_of_users(tiny, tmp_path):
    with VirtualGPU("rtx-4090"):
        pipe = shallow_pipeline("flux1-dev")
        before = _AttentionBackendRegistry._active_backend
        prepare_pipe(pipe, PipelineOptions(attention_backend="_native_cudnn", compile="whole"))
        assert _AttentionBackendRegistry._active_backend is before
        assert {
            one._attention_backend.value for one in pipe.transformer.attn_processors.values()
        } == {"_native_cudnn"}
        pipe = load_pipeline(tiny, options=PipelineOptions(channels_last=True))
        weight = pipe.unet.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"loras": ("x",)}, "--lora 'x' is neither a rank (16, or 16:to_q,to_k) nor a file"),
        ({"loras": ("0",)}, "--lora '0': a rank is 1 or more"),
        (
            {"loras": ("4:nothing",)},
            "--lora '4:nothing': no layer of the denoiser is called nothing",
        ),
        ({"fuse_lora": True}, "--fuse-lora has no meaning without --lora: add --lora RANK or FILE"),
        ({"compile": "all"}, "--compile 'all': choose one of regional, whole"),
        ({"attention_slicing": "-1"}, "--attention-slicing '-1': give auto, max or a number"),
        ({"controlnets": ("flux1-dev",)}, "'flux1-dev' has no ControlNet: "),
        ({"attention_backend": "nothing"}, "--attention-backend 'nothing': "),
    ],
)
def test_option_that_cannot_be_had_is_refused_in_a_sentence(tiny, options, told):
    def load(given):
        with VirtualGPU("rtx-4090"):
            load_pipeline(tiny, options=given)

    assert refused(load, **options).startswith(told)


def test_ip_adapters_need_a_unet(tmp_path):
    def load(given):
        with VirtualGPU("rtx-4090"):
            load_pipeline(write_tiny_flux(tmp_path), options=given)

    assert "the sizes of an IP-Adapter for FluxPipeline are not known" in refused(
        load, ip_adapters=1
    )


def test_file_that_is_no_lora_is_refused(tiny):
    (tiny / "x.safetensors").write_bytes(b"nothing")
    with VirtualGPU("rtx-4090"), pytest.raises(InputError, match="is no safetensors file"):
        load_pipeline(tiny, options=PipelineOptions(loras=(str(tiny / "x.safetensors"),)))


def test_options_come_back_from_plain_data():
    options = PipelineOptions(without=("vae",), loras=("4",), ip_adapters=2, compile="whole")
    assert options.chosen() == {
        "without": ["vae"],
        "loras": ["4"],
        "ip_adapters": 2,
        "compile": "whole",
    }
    assert pipeline_options_of(options.chosen()) == options
    assert PipelineOptions().chosen() == {}
