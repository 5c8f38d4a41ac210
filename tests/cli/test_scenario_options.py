"""Whatever changes a run is in its profile, its plan, the plan's code, the report's heading and what is advised."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.options import takes_options
from profiler.cli.scenario_options import ScenarioOptions
from profiler.planning import Plan
from profiler.record.profile import Profile
from profiler.sizing.scenario import CallOptions, Scenario
from profiler.sizing.scenario_words import command_words
from profiler.sizing.size import plan_model, profile_model, verify_plan
from profiler.units import MIB
from reports import story

IMAGE_TO_IMAGE = "StableDiffusionImg2ImgPipeline"


class Option(NamedTuple):
    """One option, and the words that name it in the heading of a report and in a plan."""

    words: tuple[str, ...]
    told: str  # in the heading, the code and the plan
    placed: dict[str, object] | None = None  # what a plan, which places anew, is compared with


GROUPS = ("--mode", "group-block")
OPTIONS = {
    "pipeline": Option(("--pipeline", IMAGE_TO_IMAGE), IMAGE_TO_IMAGE),
    "gpu": Option(("--gpu", "rtx-3060"), "RTX 3060"),
    "capacity": Option(("--capacity", "5GiB"), "5.00 GiB"),
    "host_launch": Option(("--host-launch", "25"), "takes 25 µs per launched kernel"),
    "mode": Option(("--mode", "sequential"), "sequential", {"kind": "sequential"}),
    "stream": Option((*GROUPS, "--stream"), "stream=True", {"stream": True}),
    "record_stream": Option(
        (*GROUPS, "--stream", "--record-stream"), "record_stream=True", {"record_stream": True}
    ),
    "blocks": Option((*GROUPS, "--blocks", "2"), "blocks=2", {"blocks": 2}),
    "disk": Option((*GROUPS, "--disk", "there"), "disk=True", {"disk": True}),
    "vae_tiling": Option(("--vae-tiling",), "vae works in tiles"),
    "vae_slicing": Option(("--vae-slicing", "--batch", "2"), "vae works picture by picture"),
    "layerwise_casting": Option(("--layerwise-casting",), "unet stored as float8_e4m3fn"),
    "dtype": Option(("--dtype", "float16"), "float16"),
    "quantize": Option(
        ("--quantize", "unet=torchao-int8wo", "--dtype", "bfloat16"),
        "unet quantised to torchao-int8wo",
    ),
    "config": Option((), ""),  # of a checkpoint in one file; the model here is a folder
    "without": Option(("--without", "feature_extractor"), "without feature_extractor"),
    "lora": Option(("--lora", "4", "--lora", "8:to_q"), "with LoRA of 4, 8:to_q"),
    "fuse_lora": Option(("--lora", "4", "--fuse-lora"), "with LoRA of 4, fused"),
    "controlnet": Option(("--controlnet", "tiny-controlnet") * 2, "with 2 ControlNets"),
    "ip_adapters": Option(("--ip-adapters", "1"), "with 1 IP-Adapter"),
    "textual_inversion": Option(("--textual-inversion", "3"), "with textual inversions of 3"),
    "channels_last": Option(("--channels-last",), "in channels_last"),
    "attention_backend": Option((), ""),  # of transformers; the pipeline here has a UNet
    "attention_slicing": Option(("--attention-slicing", "max"), "unet with attention in slices of"),
    "compile_": Option(("--compile", "regional"), "denoisers compiled (regional)"),
    "height": Option(("--height", "128"), "height=128"),
    "width": Option(("--width", "128"), "width=128"),
    "frames": Option((), ""),  # of videos; the pipeline here makes pictures
    "batch": Option(("--batch", "2"), "num_images_per_prompt=2"),
    "steps": Option(("--steps", "3"), "num_inference_steps=3"),
    "pictures": Option(("--pipeline", IMAGE_TO_IMAGE, "--pictures", "1"), IMAGE_TO_IMAGE),
    "picture_size": Option(
        ("--pipeline", IMAGE_TO_IMAGE, "--picture-size", "128x64"), "Image(128, 64)"
    ),
    "prompt_words": Option(("--prompt-words", "3"), "word word word"),
    "negative_prompt": Option(("--negative-prompt",), "negative_prompt="),
    "no_guidance": Option(("--no-guidance",), "guidance_scale=1.0"),
    "max_sequence_length": Option((), ""),  # of transformers of text beyond CLIP's 77 tokens
    "cached_prompt": Option(("--cached-prompt",), "cached_prompt=True"),
    "settings": Option(("--set", "guidance_scale=1.5"), "guidance_scale=1.5"),
    "weight": Option(("--weight", "3", "--also", "height=128 width=128"), "3"),
    "also": Option(("--also", "height=128 width=128 weight=2"), "height=128"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")
    index = json.loads((folder / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.fixture
def controlnet(folder, tmp_path, monkeypatch):
    """Write a ControlNet of the UNet's shape into the folder `tiny-controlnet` of the current one."""
    own = tmp_path / "tiny-controlnet"
    own.mkdir()
    unet = json.loads((Path(folder) / "unet" / "config.json").read_text())
    kept = ("attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types")
    config = {name: unet[name] for name in (*kept, "layers_per_block")}
    sides = {"conditioning_embedding_out_channels": [16, 32]}
    (own / "config.json").write_text(
        json.dumps({"_class_name": "ControlNetModel", **config, **sides})
    )
    monkeypatch.chdir(tmp_path)


BASE = ("--height", "64", "--width", "64", "--steps", "2")


def scenario_from(*words):
    """Return the scenario that words of the command describe."""
    found = []
    app = typer.Typer()

    @app.command()
    @takes_options
    def command(what: ScenarioOptions) -> None:
        found.append(what.scenario())

    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return found[0]


def test_every_option_is_watched():
    assert {one.name for one in dataclasses.fields(ScenarioOptions)} == {"model", *OPTIONS}


@pytest.mark.parametrize("words", [option.words for option in OPTIONS.values()])
def test_a_scenario_in_words_is_read_back_as_the_same(words):
    """Findings and reports tell such words to type."""
    scenario = scenario_from("a model", *BASE, *words)
    assert scenario_from(*command_words(scenario)) == scenario


@pytest.mark.parametrize(
    "value",
    ["a cat", "it's", '"', "true", "1", "None", 1, -0.5, 1e-3, True, None, [1, "b"], {"a": 1}],
)
def test_any_plain_value_of_a_call_is_read_back_as_the_same(value):
    other = CallOptions(extra={"key": value}, height=8, cached_prompt=True)
    scenario = Scenario(model="sd15", extra={"key": value}, also=(other,))
    read = scenario_from(*command_words(scenario))
    assert read.extra == {"key": value}
    assert type(read.extra["key"]) is type(value)
    assert read.also[0].extra == {"key": value}


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.words])
def test_an_option_travels(name, folder, controlnet, tmp_path):
    option = OPTIONS[name]
    scenario = scenario_from(folder, *BASE, *option.words)
    profile_model(scenario).save(tmp_path / "profile.parquet")
    profile = Profile.load(tmp_path / "profile.parquet")
    assert profile.complete
    heading = " ".join(
        [story.title(profile), *story.answer(profile), *story.call_texts(profile), profile.model]
    )
    assert option.told in heading
    source = scenario if option.placed else profile
    plan_model(source, 900 * MIB).save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    if option.placed:
        for record in plan.stock.inside.values():
            assert option.placed.items() <= record.items()
        assert len(plan.stock.inside) == len(plan.placements)
        return
    assert option.told in plan.to_text() + str(plan.call)
    code = " ".join(plan.to_code().replace("\n#", "").split())
    assert option.told in code
    found = verify_plan(plan)
    assert found.held, str(found)
    if plan.signatures:  # promised in whatever order they come; run in one
        assert found.found.peak_allocated_bytes <= plan.predicted.peak_allocated_bytes
    else:
        assert found.found.peak_allocated_bytes == plan.predicted.peak_allocated_bytes
