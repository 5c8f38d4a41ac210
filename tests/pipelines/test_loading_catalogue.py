"""Every entry of the catalogue: counted, compared with published configurations, and silent."""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from daily import daily
from diffusers import ConfigMixin, ControlNetModel
from loading_worlds import counts

from profiler.pipelines import catalogue, load_pipeline

FOLDERS = Path(__file__).parents[3] / "shared" / "model_configs"

# Has no weights; where its file is left out, its class's defaults stand for it.
IMAGE_PROCESSOR = ["transformers", "CLIPImageProcessor"]

# Published counts of parameters, as the papers, model cards and file sizes print them.
PUBLISHED = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "safety_checker"): 303_981_588,
    ("sdxl-base", "unet"): 2_567_463_684,
    ("sdxl-base", "text_encoder_2"): 694_659_840,
    ("sdxl-controlnet", "controlnet"): 1_251_014_160,
    ("flux1-dev", "transformer"): 11_901_408_320,
    ("flux1-dev", "text_encoder_2"): 4_762_310_656,
    ("cogvideox-5b", "transformer"): 5_570_283_072,
    ("wan2.1-t2v-1.3b", "transformer"): 1_418_996_800,
    ("wan2.1-t2v-1.3b", "text_encoder"): 5_680_910_336,
    ("z-image-turbo", "transformer"): 6_154_908_736,
    ("z-image-turbo", "text_encoder"): 4_022_468_096,
    ("auraflow", "transformer"): 6_842_876_928,
    ("flux2-dev", "text_encoder"): 24_011_361_280,
    ("flux2-dev", "transformer"): 32_223_281_152,
    ("hunyuanvideo", "transformer"): 12_821_012_544,
    ("kolors", "unet"): 2_579_458_820,
    ("mochi-1", "transformer"): 10_027_677_744,
    ("sana-1600m", "transformer"): 1_604_462_752,
    ("sd15-controlnet", "controlnet"): 361_279_120,
    ("stable-video-diffusion", "unet"): 1_524_623_082,
    ("wan2.1-i2v-14b", "transformer"): 16_394_878_784,
}


@pytest.fixture
def published(tmp_path):
    """Return a function from a name to the folder of published configurations of that name."""

    def folder_of(name):
        folder = FOLDERS / name
        if not (folder / "model_index.json").is_file():
            pytest.skip(f"no published configuration at ../shared/model_configs/{name}")
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        lacking = [slot for slot, part in index.items() if part == IMAGE_PROCESSOR]
        lacking = [slot for slot in lacking if not (folder / slot).is_dir()]
        if not lacking:
            return folder
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        for slot in lacking:
            (copy / slot).mkdir()
            (copy / slot / "preprocessor_config.json").write_text("{}")
        return copy

    return folder_of


def hyperparameters(pipe):
    """Return what the pipeline and each diffusers component of it were built with."""
    parts = {"": pipe, **pipe.components}
    return {
        name: {
            key: list(part.config[key]) if isinstance(part.config[key], tuple) else part.config[key]
            for key in inspect.signature(type(part)).parameters
            if part.config.get(key) and key not in pipe.components
        }
        for name, part in parts.items()
        if isinstance(part, ConfigMixin)
    }


def test_parameters_are_as_many_as_published():
    found = {}
    for name in {name for name, _ in PUBLISHED}:
        pipe = load_pipeline(name)
        for slot in [slot for other, slot in PUBLISHED if other == name]:
            module = pipe.components[slot]
            found[name, slot] = sum(each.numel() for each in module.parameters())

    assert found == PUBLISHED


@pytest.mark.parametrize("dtype", daily(["float16"], ["float16", "bfloat16", "float32"]))
@pytest.mark.parametrize("name", list(catalogue()))
def test_entry_equals_the_folder_of_the_same_name(name, dtype, published):
    folder = published(name)

    assert counts(load_pipeline(name, dtype=dtype)) == counts(load_pipeline(folder, dtype=dtype))


@pytest.mark.parametrize("name", list(catalogue()))
def test_hyperparameters_equal_those_of_the_folder(name, published):
    """Also those that change no count: what diffusers' classes take, None and False being one."""
    ours, theirs = (hyperparameters(load_pipeline(each)) for each in (name, published(name)))

    assert ours == theirs


def test_every_published_configuration_is_in_the_catalogue():
    if not FOLDERS.is_dir():
        pytest.skip("no published configurations at ../shared/model_configs")
    folders = {each.name for each in FOLDERS.iterdir() if each.is_dir()}

    # A ControlNet alone is no pipeline.
    assert folders - set(catalogue()) == {"controlnet-sd15-canny"}


def test_sd15_controlnet_is_sd15_and_the_published_controlnet(published):
    config = FOLDERS / "controlnet-sd15-canny" / "config.json"
    sd15 = counts(load_pipeline(published("sd15"), dtype="float16"))
    pipe = load_pipeline("sd15-controlnet", dtype="float16")
    controlnet = ControlNetModel.from_config(json.loads(config.read_text("utf-8")))

    with_controlnet = counts(pipe)

    assert with_controlnet.pop("controlnet") == (
        "ControlNetModel",
        sum(parameter.numel() for parameter in controlnet.parameters()),
        0,
        {"float16": 722_558_240},
    )
    assert with_controlnet == sd15


def test_sdxl_controlnet_is_sdxl_and_a_controlnet(published):
    folder = published("sdxl-base")
    with_controlnet = counts(load_pipeline("sdxl-controlnet", dtype="float16"))

    controlnet = with_controlnet.pop("controlnet")

    assert with_controlnet == counts(load_pipeline(folder, dtype="float16"))
    # The published half-precision file of the canny ControlNet has 2.5 GB.
    assert controlnet == ("ControlNetModel", 1_251_014_160, 0, {"float16": 2_502_028_320})


@pytest.mark.parametrize("name", list(catalogue()))
def test_building_is_silent(name, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pipeline(name)

    assert capfd.readouterr() == ("", "")


def test_default_dtypes_are_those_of_the_model_gpu():
    wan = load_pipeline("wan2.1-t2v-1.3b")

    assert (wan.vae.dtype, wan.text_encoder.dtype) == (torch.float32, torch.bfloat16)
    assert load_pipeline("wan2.1-t2v-1.3b", dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_pipe_knows_the_name_it_was_loaded_by():
    assert load_pipeline("sd15").config._name_or_path == "sd15"
