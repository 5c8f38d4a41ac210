"""Modular pipelines: loaded by name, over a model's components and from folders, and run in every mode."""

from __future__ import annotations

import diffusers
import pytest
from diffusers import ComponentsManager, FluxModularPipeline
from modular_worlds import CALL, modular_flux, write_modular_flux
from tiny_flux import write_tiny_flux

from profiler.errors import InputError
from profiler.libraries.modes import MODES, Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.modular import find_blocks
from profiler.pipelines.sensible_call import sensible_call
from profiler.pipelines.sibling import sibling
from profiler.tracing import profile_pipeline, trace
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")

FLUX = [
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
]


def test_blocks_are_found_by_their_name_and_by_their_pipelines():
    assert find_blocks("FluxAutoBlocks") is diffusers.FluxAutoBlocks
    assert find_blocks("FluxModularPipeline") is diffusers.FluxAutoBlocks
    for name in ("FluxPipeline", "SequentialPipelineBlocks", "ModularPipeline", "Nothing", ""):
        assert find_blocks(name) is None


def test_every_modular_pipeline_of_diffusers_has_blocks():
    names = [name for name in dir(diffusers) if name.endswith("ModularPipeline")]
    assert [name for name in names if find_blocks(name) is None] == ["ModularPipeline"]


def test_folder_becomes_the_pipeline_of_its_blocks(tmp_path):
    pipe = load_pipeline(write_modular_flux(tmp_path))

    assert type(pipe) is FluxModularPipeline
    assert type(pipe.blocks) is diffusers.FluxAutoBlocks
    assert sorted(name for name, part in pipe.components.items() if part is not None) == sorted(
        [*FLUX, "image_processor"]
    )


def test_part_of_another_repository_is_the_one_that_the_catalogue_knows(tmp_path):
    elsewhere = {
        "type_hint": ["diffusers", "AutoencoderKL"],
        "subfolder": "vae",
        "pretrained_model_name_or_path": "black-forest-labs/FLUX.1-dev",
    }
    folder = write_modular_flux(tmp_path, vae=["diffusers", "AutoencoderKL", elsewhere])
    (folder / "vae" / "config.json").unlink()
    (folder / "vae").rmdir()

    assert load_pipeline(folder).vae.config.block_out_channels == [128, 256, 512, 512]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (
            {"_class_name": "MyPipeline", "_blocks_class_name": "MyBlocks"},
            "names no blocks of diffusers (MyBlocks, MyPipeline): blocks of its own are code, which is never run",
        ),
        (
            {"vae": ["diffusers", "AutoencoderKL", {"subfolder": "../vae"}]},
            "its vae is neither in it nor in a repository of the hub (''): copy it into ../vae",
        ),
        (
            {"vae": ["diffusers", "AutoencoderKL", {"pretrained_model_name_or_path": "/etc"}]},
            "its vae is neither in it nor in a repository of the hub ('/etc'): copy it into vae",
        ),
    ],
)
def test_folder_that_cannot_be_loaded_says_why(tmp_path, index, told):
    with pytest.raises(InputError) as caught:
        load_pipeline(write_modular_flux(tmp_path, **index))
    assert str(caught.value).endswith(told)


def test_folder_with_base_blocks_gets_those_of_its_class(tmp_path):
    """Diffusers saves blocks that were put together by hand under their base class."""
    folder = write_modular_flux(tmp_path, _blocks_class_name="SequentialPipelineBlocks")

    assert type(load_pipeline(folder).blocks) is diffusers.FluxAutoBlocks


def test_blocks_over_a_models_components(tmp_path):
    folder = write_tiny_flux(tmp_path)

    pipe = load_pipeline(folder, pipeline_class="FluxAutoBlocks")
    other = sibling(load_pipeline(folder), "FluxModularPipeline")

    assert type(pipe) is type(other) is FluxModularPipeline
    assert list(pipe.components) == list(other.components)


def test_calls_do_what_those_of_the_plain_pipeline_do(tmp_path):
    """Peaks and copies of both, in each mode that places the components alike."""
    for mode in ("resident", "sequential", "group-leaf", "group-block"):
        found = {}
        for name in ("", "FluxAutoBlocks"):
            with VirtualGPU("rtx-4090"):
                pipe = load_pipeline(write_tiny_flux(tmp_path), pipeline_class=name)
                profile = profile_pipeline(pipe, mode=mode, **CALL)
            assert profile.error == ""
            assert profile.mode == mode
            totals = profile.totals
            found[name] = totals.peak_allocated_bytes, totals.h2d_bytes, totals.d2h_bytes
        assert found[""] == found["FluxAutoBlocks"]


def test_every_mode_can_be_made(tmp_path):
    for name in MODES:
        with VirtualGPU("rtx-4090"):
            pipe = modular_flux(tmp_path)
            assert profile_pipeline(pipe, mode=Mode(name=name), **CALL).mode == name


def test_unplaced_pipe_runs_under_a_components_manager(tmp_path):
    profile = profile_pipeline(modular_flux(tmp_path), gpu="rtx-4090", **CALL)

    assert profile.mode == "model"
    moved = [one for one in profile.events if one.kind in ("onload", "offload") and one.call == 0]
    assert [one.component for one in moved] == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae",
    ]
    assert {one.asked_by for one in moved} == {"diffusers.ComponentsManager"}


def test_users_own_manager_is_traced(tmp_path):
    """On a GPU so small that diffusers' strategy offloads: it reserves 3 GB for activations."""
    with VirtualGPU("rtx-4060"):
        pipe = modular_flux(tmp_path)
        manager = ComponentsManager()
        for name, part in pipe.components.items():
            manager.add(name, part)
        manager.enable_auto_cpu_offload("cuda", memory_reserve_margin="8GB")
        with trace(pipe) as t:
            pipe(**CALL)

    assert t.profile.mode == "model"
    assert [
        (one.kind, one.component) for one in t.profile.events if one.kind in ("onload", "offload")
    ][-2:] == [("offload", "transformer"), ("onload", "vae")]
    assert not [
        one for one in t.profile.findings if one.kind in ("idle_resident", "outside_sequence")
    ]


def test_blocks_choose_by_what_the_call_has(tmp_path):
    """Without a picture the blocks of image to image, and their strength, have no part in the call."""
    profile = profile_pipeline(
        modular_flux(tmp_path), gpu="rtx-4090", height=32, width=32, num_inference_steps=1
    )

    assert profile.call_defaults == ("prompt",)


def test_blocks_that_require_lyrics_get_some():
    """Those of MiniMax's music refuse an empty text."""
    pipe = diffusers.MiniMaxMusic3Blocks().init_pipeline()

    given, chosen = sensible_call(pipe, {})

    assert chosen == ("prompt", "lyrics")
    assert given["lyrics"].startswith("[verse]")
