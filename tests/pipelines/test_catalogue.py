"""The catalogue as data: what it names, what it answers to a name it does not have."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import profiler
from profiler.errors import InputError
from profiler.pipelines.blank_inputs import KINDS
from profiler.pipelines.catalogue import (
    Part,
    _tables,
    catalogue,
    find_entry,
    name_of_hub_id,
    tokenizer_facts,
)


def test_catalogue_has_the_models_that_the_guide_speaks_of():
    named = {"sd15", "sdxl-base", "flux1-dev", "cogvideox-5b", "wan2.1-t2v-1.3b", "z-image-turbo"}

    assert named | {"sdxl-controlnet"} <= set(catalogue())


def test_looking_into_the_catalogue_does_not_import_torch():
    code = (
        "import sys; from profiler.pipelines import catalogue; catalogue();"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_part_inherits_the_class_and_overrides_hyperparameters():
    assert catalogue()["sdxl-base"].components["vae"] == Part(
        library="diffusers",
        class_name="AutoencoderKL",
        config={
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "sample_size": 1024,
            "scaling_factor": 0.13025,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
    )


def test_every_part_is_used():
    tables = _tables()
    by_models = {
        name for model in tables["models"].values() for name in model["components"].values()
    }
    by_parts = {part["like"] for part in tables["parts"].values() if "like" in part}

    assert set(tables["parts"]) == by_models | by_parts


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_entry_says_what_it_is_in_one_line(entry):
    assert re.fullmatch(r"[A-Z].{20,100}", entry.about)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
    assert {entry.dtype, *entry.dtypes.values()} <= {"float16", "bfloat16", "float32"}
    assert set(entry.dtypes) <= set(entry.components)
    assert set(entry.required_call.values()) <= {"text", *KINDS.values()}


def test_every_name_is_given_once():
    """A part of two families is in `shared.toml`."""
    folder = Path(profiler.__file__).parent / "data" / "catalogue"
    tables = [tomllib.loads(file.read_text()) for file in folder.glob("*.toml")]
    names = [(kind, name) for table in tables for kind, named in table.items() for name in named]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_unknown_name_is_answered_with_close_matches():
    with pytest.raises(InputError) as caught:
        find_entry("SDXL-bas")

    assert str(caught.value).startswith("unknown model 'SDXL-bas': did you mean sdxl-base")
    assert "\n" not in str(caught.value)


def test_name_like_nothing_is_answered_with_where_the_names_are():
    with pytest.raises(
        InputError, match=r"unknown model 'zzzzzz': `vram list models` names all \d+"
    ):
        find_entry("zzzzzz")


def test_hub_id_leads_to_the_name():
    assert name_of_hub_id("black-forest-labs/FLUX.1-dev") == "flux1-dev"
    assert name_of_hub_id("nobody/nothing") == ""


def test_tokenizer_facts_are_found_by_class():
    assert tokenizer_facts("T5TokenizerFast") == tokenizer_facts("T5Tokenizer")
    assert tokenizer_facts("NoSuchTokenizer") is None


def test_null_in_a_part_is_none():
    unet = catalogue()["audioldm2"].components["unet"]

    assert unet.config["cross_attention_dim"] == [[None, 768, 1024]] * 4
