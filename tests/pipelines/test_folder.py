"""Folders on disk: what is read, what is refused, and real tokenizers where their files are."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.utils import DummyObject, requires_backends
from diffusers.utils.import_utils import BACKENDS_MAPPING
from loading_worlds import counts
from tiny_folder import write_tiny_pipeline
from transformers import ByT5Tokenizer, CLIPTokenizer

from profiler.errors import InputError
from profiler.pipelines import StandInTokenizer, load_pipeline, stand_ins
from profiler.pipelines.folder import read_folder


def rewrite(file, **changes):
    """Change keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refused(model, **options):
    """Return the one line with which `load_pipeline` refuses."""
    with pytest.raises(InputError) as caught:
        load_pipeline(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return write_tiny_pipeline(tmp_path / "tiny")


def test_folder_becomes_the_pipeline_that_it_describes(folder):
    pipe = load_pipeline(folder)

    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert pipe.config._name_or_path == str(folder)
    assert {name: type(component).__name__ for name, component in pipe.components.items()} == {
        "feature_extractor": "NoneType",
        "image_encoder": "NoneType",
        "safety_checker": "NoneType",
        "scheduler": "DDIMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "StandInTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }


def test_arguments_of_the_pipeline_class_are_taken_from_the_index(folder):
    rewrite(folder / "model_index.json", requires_safety_checker=True)

    assert load_pipeline(folder).config.requires_safety_checker is True


def test_saved_pipeline_is_counted_as_it_was(folder, tmp_path):
    """What `save_pretrained` wrote from real weights, without reading the weights."""
    with torch.device("cpu"):
        real = load_pipeline(folder)
    for name in ("unet", "vae", "text_encoder"):
        getattr(real, name).to_empty(device="cpu").save_pretrained(tmp_path / "saved" / name)
    real.scheduler.save_pretrained(tmp_path / "saved" / "scheduler")
    (tmp_path / "saved" / "model_index.json").write_text((folder / "model_index.json").read_text())

    assert counts(load_pipeline(tmp_path / "saved")) == counts(load_pipeline(folder))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([], torch.float32),
        (["float16"], torch.float16),
        (["float16", "bfloat16"], torch.float32),
        (["int8"], torch.float32),
    ],
)
def test_dtype_is_the_one_that_the_folder_stores(folder, stored, expected):
    for component, dtype in zip(("text_encoder", "vae"), stored, strict=False):
        rewrite(folder / component / "config.json", torch_dtype=dtype)

    assert load_pipeline(folder).unet.dtype == expected


@pytest.mark.parametrize(
    ("stored", "assumed"),
    [
        ([], "float32 for text_encoder, unet, vae"),
        (["float16"], "float16 for unet, vae"),
        (["float16", "bfloat16"], "float32 for text_encoder, unet, vae"),
        (["float16", "float16", "float16"], None),
    ],
)
def test_dtype_that_the_folder_does_not_tell_is_an_assumption(folder, stored, assumed):
    for component, dtype in zip(("text_encoder", "vae", "unet"), stored, strict=False):
        rewrite(folder / component / "config.json", torch_dtype=dtype)

    def told(**options):
        return [one for one in stand_ins(load_pipeline(folder, **options)) if "dtype" in one]

    why = ", which their files do not name: choose with dtype= or --dtype"
    assert told() == ([] if assumed is None else [assumed + why])
    assert told(dtype="bfloat16") == []
    assert told(dtype={"default": "bfloat16", "vae": "float32"}) == []


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_tell_their_dtype_by_their_headers(folder, variant):
    """A diffusers model's configuration has no dtype, and a variant's files have names of their own."""
    real = load_pipeline(folder, dtype="float16", weights="random")
    for name in ("unet", "vae", "text_encoder"):
        getattr(real, name).save_pretrained(folder / name, variant=variant)

    pipe = load_pipeline(folder)

    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float16}
    assert [one for one in stand_ins(pipe) if "dtype" in one] == []


def test_file_of_weights_that_cannot_be_read_tells_no_dtype(folder):
    """Git LFS leaves a line of text in the place of a file that was not fetched."""
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs")

    assert load_pipeline(folder).unet.dtype == torch.float32


def test_asked_for_dtype_beats_the_stored_one(folder):
    rewrite(folder / "text_encoder" / "config.json", torch_dtype="float16")

    pipe = load_pipeline(folder, dtype="bfloat16")

    assert {pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"default": torch.bfloat16, "vae": torch.float32}, ("bfloat16", "bfloat16", "float32")),
        ({"default": "bfloat16", "unet": "float16"}, ("float16", "bfloat16", "bfloat16")),
        ({"vae": torch.bfloat16}, ("float16", "float16", "bfloat16")),
    ],
)
def test_dtypes_by_component_are_those_of_from_pretrained(folder, asked, expected):
    """What is not named is as if none were given: what the folder stores."""
    rewrite(folder / "text_encoder" / "config.json", torch_dtype="float16")

    pipe = load_pipeline(folder, dtype=asked)

    found = [str(getattr(pipe, name).dtype) for name in ("unet", "text_encoder", "vae")]
    assert found == [f"torch.{name}" for name in expected]


@pytest.mark.parametrize("component", ["tokenizer", "scheduler", "safety_checker", "transformer"])
def test_dtype_for_a_component_without_weights_is_refused(folder, component):
    told = refused(folder, dtype={component: "float16"})

    assert told == (
        f"{str(folder)!r} has no component {component!r} to give a dtype to: "
        "it has text_encoder, unet, vae"
    )


def test_vocabulary_in_the_folder_is_used(folder):
    words = ["a</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer" / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)})
    )
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")

    pipe = load_pipeline(folder, dtype="float16")

    assert isinstance(pipe.tokenizer, CLIPTokenizer)
    assert stand_ins(pipe) == []


def test_length_limit_of_the_folder_is_kept_without_its_vocabulary(folder):
    rewrite(folder / "tokenizer" / "tokenizer_config.json", model_max_length=32)

    tokenizer = load_pipeline(folder).tokenizer

    assert isinstance(tokenizer, StandInTokenizer)
    assert tokenizer("a", padding="max_length", return_tensors="pt").input_ids.shape == (1, 32)


def test_folder_without_an_index_is_no_pipeline(tmp_path):
    assert refused(tmp_path) == (
        f"{str(tmp_path)!r} is no diffusers pipeline: it has no model_index.json, and no modular_model_index.json; "
        "give the folder that save_pretrained of a pipeline wrote"
    )


def test_unknown_pipeline_class_is_named_with_close_ones(folder):
    rewrite(folder / "model_index.json", _class_name="StableDiffusionPipelin")

    assert "'StableDiffusionPipelin'" in refused(folder)
    assert "did it mean StableDiffusion" in refused(folder)


def test_unknown_component_class_is_named(folder):
    rewrite(folder / "model_index.json", unet=["my_module", "MyUNet"])

    assert "asks for my_module.MyUNet as its unet" in refused(folder)


def test_component_without_configuration_is_named(folder):
    (folder / "unet" / "config.json").unlink()

    assert "has no configuration for UNet2DConditionModel" in refused(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_broken_json_is_named(folder, text):
    (folder / "vae" / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    assert str(folder / "vae" / "config.json") in refused(folder)


def test_impossible_hyperparameters_are_named(folder):
    rewrite(folder / "unet" / "config.json", block_out_channels=[3])

    assert "its unet (UNet2DConditionModel) cannot be built from its configuration" in (
        refused(folder)
    )


def test_library_that_a_scheduler_needs_is_named_with_how_to_install_it(folder, monkeypatch):
    def missing(*_, **__):
        requires_backends("UniPCMultistepScheduler", ["torchsde"])

    monkeypatch.setitem(
        BACKENDS_MAPPING, "torchsde", (lambda: False, BACKENDS_MAPPING["torchsde"][1])
    )
    monkeypatch.setattr(DDIMScheduler, "from_config", missing)

    told = refused(folder)

    assert "its scheduler (DDIMScheduler) cannot be built: " in told
    assert told.endswith(
        "requires the torchsde library but it was not found in your environment. "
        "You can install it with pip: pip install torchsde"
    )


def test_library_that_a_pipeline_class_needs_is_named(folder, monkeypatch):
    """Where a library is missing diffusers puts a stand-in into the place of the class."""
    stand_in = DummyObject("StableAudioPipeline", (), {"_backends": ["torchsde"]})
    monkeypatch.setitem(
        BACKENDS_MAPPING, "torchsde", (lambda: False, BACKENDS_MAPPING["torchsde"][1])
    )
    monkeypatch.setattr(diffusers, "StableAudioPipeline", stand_in)
    rewrite(folder / "model_index.json", _class_name="StableAudioPipeline")

    assert refused(folder).endswith("pip install torchsde")


def test_index_that_describes_no_class_is_named(folder):
    rewrite(folder / "model_index.json", unet=["diffusers"])

    assert "not as a library and a class" in refused(folder)


def test_list_in_the_index_is_an_argument_where_no_component_has_its_name(folder):
    """As Krea 2's layers of its text encoder."""
    rewrite(folder / "model_index.json", some_layers=[2, 5, 8], more=[])

    assert read_folder(folder, name="tiny").arguments == {
        "requires_safety_checker": False,
        "some_layers": [2, 5, 8],
        "more": [],
    }


@pytest.mark.parametrize("class_name", ["CLIPImageProcessor", "SiglipImageProcessor"])
def test_image_processor_without_a_file_gets_the_defaults_of_its_class(folder, class_name):
    rewrite(folder / "model_index.json", feature_extractor=["transformers", class_name])

    pipe = load_pipeline(folder)

    assert pipe.feature_extractor.size
    told = f"feature_extractor: {class_name} has no file, and gets its class's defaults"
    assert told in stand_ins(pipe)


def test_tokenizer_that_cannot_be_imitated_is_named(folder):
    rewrite(folder / "model_index.json", tokenizer=["transformers", "XLMTokenizer"])

    assert "the tokenizer XLMTokenizer cannot be imitated" in refused(folder)


def test_unknown_dtype_is_refused_before_anything_is_built():
    told = "unknown dtype 'int8': use float16, bfloat16, float32"
    assert refused("sd15", dtype="int8") == told
    assert refused("no-such-model", dtype={"vae": "int8"}) == told


def test_missing_folder_is_named():
    assert refused("./models/none/here") == (
        "there is no folder './models/none/here', and it is no hub id (org/name) either"
    )


def test_tokenizer_of_bytes_is_the_real_one_without_a_vocabulary(folder):
    rewrite(folder / "model_index.json", tokenizer=["transformers", "ByT5Tokenizer"])

    tokenizer = load_pipeline(folder).tokenizer

    assert isinstance(tokenizer, ByT5Tokenizer)
    assert len(tokenizer("\u00fc").input_ids) == 3  # two bytes and the end


def test_tokenizer_stored_by_transformers_5_without_its_vocabulary_is_named(folder):
    rewrite(folder / "model_index.json", tokenizer=["transformers", "TokenizersBackend"])

    assert "the tokenizer TokenizersBackend cannot be imitated" in refused(folder)
