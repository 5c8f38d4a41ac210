"""What was set on a pipeline is in its profile, in its plan and in the plan's code, and is missed if it goes."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from tiny_folder import write_tiny_pipeline

from profiler.applying import apply
from profiler.applying.run_differences import differences
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.libraries.modes import MODES, Mode
from profiler.libraries.placing import enable_mode
from profiler.libraries.settings_read import settings_of
from profiler.pipelines import load_pipeline
from profiler.planning import Plan, plan_offload
from profiler.record.profile import Profile
from profiler.record.settings import ATTENTION_BACKEND, Setting, setting_words
from profiler.tracing import profile_pipeline
from profiler.tracing.own_mode import is_unplaced, own_mode
from profiler.units import GIB
from profiler.virtual import VirtualGPU

CALL = {"height": 64, "width": 64, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def plain_plan(folder):
    with VirtualGPU("rtx-4060"):
        return plan_offload(profile_pipeline(load_pipeline(folder), **CALL), 2 * GIB)


def loaded(folder):
    pipe = load_pipeline(folder, weights="random")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tile_small(pipe):
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size = 48
    pipe.vae.tile_latent_min_size = 24


def set_backend(pipe):
    for attention in pipe.unet.attn_processors.values():
        attention._attention_backend = "_native_math"


def cast(pipe):
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e5m2, compute_dtype=torch.float32)


def adapt(pipe):
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q"], r=4), adapter_name="style")


SETTINGS = {
    "vae works in tiles": lambda pipe: pipe.vae.enable_tiling(),
    "vae works in tiles (tile_latent_min_size=24, tile_sample_min_size=48)": tile_small,
    "vae works picture by picture": lambda pipe: pipe.vae.enable_slicing(),
    "unet stored as float8_e5m2": cast,
    "unet with attention in slices of 2": lambda pipe: pipe.unet.set_attention_slice(2),
    "unet with attention by AttnProcessor": lambda pipe: pipe.unet.set_attn_processor(
        AttnProcessor()
    ),
    "unet with fused projections": lambda pipe: pipe.unet.fuse_qkv_projections(),
    "unet with FreeU (s1=0.9, s2=0.2, b1=1.2, b2=1.4)": lambda pipe: pipe.enable_freeu(
        s1=0.9, s2=0.2, b1=1.2, b2=1.4
    ),
    "unet in channels_last": lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
}
LOADED = {"unet with the adapters style": adapt}  # decided when weights are loaded: only said


def words(settings):
    return [setting_words(one) for one in settings]


@pytest.mark.parametrize("told", [*SETTINGS, *LOADED])
def test_a_setting_is_in_profile_plan_and_code(told, folder, tmp_path):
    pipe = loaded(folder)
    {**SETTINGS, **LOADED}[told](pipe)
    profile_pipeline(pipe, gpu="rtx-4060", **CALL).save(tmp_path / "profile.parquet")
    profile = Profile.load(tmp_path / "profile.parquet")
    assert words(profile.settings) == [told]
    assert profile.dtype == "float32"
    plan_offload(profile, 2 * GIB).save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert words(plan.settings) == [told]
    assert told in plan.to_text()
    assert told in plan.to_code().replace("\n#   ", " ")
    if told in LOADED:
        return
    for before in (lambda pipe: None, SETTINGS[told]):
        with VirtualGPU("rtx-4060"):
            fresh = load_pipeline(folder)
            before(fresh)
            exec(compile(plan.to_code(), "plan", "exec"), {"pipe": fresh})
            found = settings_of(private.modules_of(fresh))
        assert words(found) == [told]


def test_the_twin_runs_with_what_was_set(folder):
    """Every setting that takes or gives memory shows in the peak or in the bytes moved."""
    plain = profile_pipeline(loaded(folder), gpu="rtx-4060", **CALL).totals
    pipe = loaded(folder)
    cast(pipe)
    totals = profile_pipeline(pipe, gpu="rtx-4060", **CALL).totals
    assert totals.h2d_weight_bytes < plain.h2d_weight_bytes
    pipe = loaded(folder)
    adapt(pipe)
    totals = profile_pipeline(pipe, gpu="rtx-4060", **CALL).totals
    assert totals.h2d_weight_bytes > plain.h2d_weight_bytes


def test_a_cast_component_is_planned_as_it_is_stored(folder):
    """A plan that kept the weights' size from before the cast would find no room for what it had made small."""
    with VirtualGPU("rtx-4060"):
        pipe = load_pipeline(folder)
        profile = profile_pipeline(pipe, mode=Mode(name="model", layerwise_casting=True), **CALL)
    part = next(one for one in profile.components if one.name == "unet")
    loads = [e for e in profile.events if e.kind == "onload" and e.component == "unet"]
    assert part.dtype == "float8_e4m3fn"
    assert {event.bytes for event in loads} == {part.bytes}


@pytest.mark.parametrize("backend", [one.value for one in AttentionBackendName])
def test_every_attention_backend_of_diffusers_can_be_saved(backend, plain_plan, tmp_path):
    setting = Setting(what=ATTENTION_BACKEND, component="unet", value=backend)
    replace(plain_plan, settings=(setting,)).save(tmp_path / "plan.json")
    assert (
        f"pipe.unet.set_attention_backend({backend!r})"
        in Plan.load(tmp_path / "plan.json").to_code()
    )


def test_a_hook_that_a_twin_cannot_have_is_refused(folder):
    pipe = loaded(folder)
    registry = HookRegistry.check_if_exists_or_initialize(pipe.unet)
    registry.register_hook(ModelHook(), "fbc_block_hook")
    with pytest.raises(InputError, match="fbc_block_hook"):
        profile_pipeline(pipe, gpu="rtx-4060", **CALL)


@pytest.mark.parametrize("told", [told for told in SETTINGS if told.startswith("unet with")])
def test_a_setting_that_is_gone_is_missed(told, folder):
    with VirtualGPU("rtx-4060"):
        pipe = load_pipeline(folder)
        SETTINGS[told](pipe)
        plan = plan_offload(profile_pipeline(pipe, **CALL), 2 * GIB)
        fresh = load_pipeline(folder)
        assert differences(plan, fresh) == (f"planned with {told}, which is not so",)
        with pytest.warns(UserWarning, match="its figures do not hold"):
            apply(plan, fresh).undo()
        SETTINGS[told](fresh)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply(plan, fresh).undo()


def test_another_dtype_is_missed(folder):
    with VirtualGPU("rtx-4060"):
        plan = plan_offload(profile_pipeline(load_pipeline(folder), **CALL), 2 * GIB)
        half = load_pipeline(folder, dtype="float16")
    assert differences(plan, half) == tuple(
        f"{name} was planned in float32 and is in float16" for name in plan.placements
    )


@pytest.mark.parametrize("name", MODES)
def test_the_mode_of_a_pipe_is_read_with_its_options(name, folder):
    options = {"stream": True, "record_stream": True} if name.startswith("group") else {}
    options |= {"blocks": 1} if name == "group-block" else {}
    with VirtualGPU("rtx-4060"):
        pipe = load_pipeline(folder)
        assert is_unplaced(pipe)
        enable_mode(pipe, Mode(name=name, **options))
        assert not is_unplaced(pipe)
        assert own_mode(pipe) == Mode(name=name, **options)


@pytest.mark.parametrize("mode", ["resident", "model", "group-leaf"])
def test_a_placement_that_another_mode_leaves_out_is_told(mode, folder):
    pipe = loaded(folder)
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=False
    )
    profile = profile_pipeline(pipe, mode=mode, gpu="rtx-4060", **CALL)
    assert profile.assumptions[-1].what == (
        f"the pipe is placed otherwise, and that was left out: its twin ran in mode {mode!r}, as mode= says"
    )


def test_a_mode_that_the_pipe_is_in_is_not_told(folder):
    with VirtualGPU("rtx-4060"):
        pipe = load_pipeline(folder)
        enable_mode(pipe, Mode(name="group-block", blocks=2))
    for mode, told in ((Mode(name="group-block", blocks=2), False), ("group-block", True)):
        profile = profile_pipeline(pipe, mode=mode, gpu="rtx-4060", **CALL)
        assert any("placed otherwise" in one.what for one in profile.assumptions) == told


def test_a_pipe_that_nobody_placed_runs_by_the_default_and_says_so(folder):
    with VirtualGPU("rtx-4060"):
        pipe = load_pipeline(folder)
        inside = profile_pipeline(pipe, **CALL)
    twin = profile_pipeline(loaded(folder), **CALL)
    for profile in (inside, twin):
        assert profile.mode == "model"
        assert "was not placed" in profile.assumptions[-1].what
    assert twin.gpu.is_default
    assert not inside.gpu.is_default
