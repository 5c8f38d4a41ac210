"""A loaded pipe in whatever state its user left it is profiled on a virtual GPU, or refused in one sentence.

The pipe is afterwards what it was: hooks, attributes, and where, what and which every tensor is.
"""

import copy
import threading
import types
from functools import cache
from itertools import cycle

import pytest
import torch
from accelerate import cpu_offload_with_hook
from adapters import lora_state_dict
from diffusers import StableDiffusionXLImg2ImgPipeline
from diffusers.hooks import FirstBlockCacheConfig
from diffusers.models.attention_processor import AttnProcessor
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from loaded_worlds import call_of, everything, figures, flux, run, sd15, sdxl
from PIL import Image
from torch import nn

from profiler.errors import InputError
from profiler.libraries.compiled import COMPILE, RUNS_EAGERLY
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

PIPES = {"sd15": sd15, "sdxl": sdxl, "flux": flux}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the pipe itself is run"),
]


def denoiser(pipe):
    return "transformer" if hasattr(pipe, "transformer") else "unet"


def profiled(pipe, **options):
    """Return the profile of a pipe, which is left as it was."""
    before = everything(pipe)
    options = {"mode": "resident", **options}
    profile = profile_pipeline(pipe, gpu="rtx-4060", **call_of(pipe), **options)
    assert everything(pipe) == before
    assert profile.complete, profile.error
    return profile


def told(profile):
    """Return what is equal between two profiles of the same thing."""
    return profile.components, profile.events, profile.totals, profile.insides, profile.mode


@pytest.fixture(autouse=True, scope="module")
def _what_a_compiler_leaves_in_torch_is_there_before():
    """Torch marks modules by generation from its first compiled call on, for good."""
    torch._dynamo.mutation_guard.install_generation_tagging_init()


@pytest.fixture(scope="module")
def fresh():
    """Return the profile of each pipeline as it was built."""
    return {name: profiled(make()) for name, make in PIPES.items()}


# -- what changes no figure


def called(pipe):
    run(pipe)


def called_twice(pipe):
    run(pipe)
    run(pipe)


def profiled_before(pipe):
    profiled(pipe)


def called_and_profiled_before(pipe):
    run(pipe)
    profiled(pipe, mode="model")


def hooked_and_unhooked(pipe):
    for part in (pipe.text_encoder, getattr(pipe, denoiser(pipe)), pipe.vae):
        cpu_offload_with_hook(part, execution_device="cpu")
    pipe._all_hooks = []
    run(pipe)
    pipe.remove_all_hooks()


def wrapped_in_a_compiler(pipe):
    setattr(pipe, denoiser(pipe), torch.compile(getattr(pipe, denoiser(pipe))))


def compiled_in_place(pipe):
    getattr(pipe, denoiser(pipe)).compile(fullgraph=True)


def compiled_block_by_block(pipe):
    getattr(pipe, denoiser(pipe)).compile_repeated_blocks()


def with_a_compiled_part_inside(pipe):
    for module in pipe.text_encoder.modules():
        for name, child in module.named_children():
            if name == "mlp":
                setattr(module, name, torch.compile(child))


def with_a_compiled_method(pipe):
    pipe.vae.decode = torch.compile(pipe.vae.decode, fullgraph=True)
    part = getattr(pipe, denoiser(pipe))
    part.forward = torch.compile(part.forward)


def copied(pipe):
    run(pipe)
    return copy.copy(pipe)


def with_a_wrapped_forward(pipe):
    inner = pipe.vae.decode

    def decode(*args, **kwargs):
        return inner(*args, **kwargs)

    pipe.vae.decode = decode


def with_a_wrapped_method_of_the_pipe(pipe):
    inner, encode = pipe, type(pipe).encode_prompt
    pipe.encode_prompt = lambda *args, **kwargs: encode(inner, *args, **kwargs)


def with_its_forward_bound_anew(pipe):
    part = getattr(pipe, denoiser(pipe))
    part.forward = types.MethodType(type(part).forward, part)


def needing_no_gradients(pipe):
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)


SAME = [
    called_twice,
    profiled_before,
    called_and_profiled_before,
    hooked_and_unhooked,
    wrapped_in_a_compiler,
    compiled_in_place,
    compiled_block_by_block,
    with_a_compiled_part_inside,
    with_a_compiled_method,
    copied,
    with_a_wrapped_forward,
    with_a_wrapped_method_of_the_pipe,
    with_its_forward_bound_anew,
    needing_no_gradients,
]


@pytest.mark.parametrize(
    ("name", "change"),
    [*((name, called) for name in PIPES), *((name, one) for one, name in zip(SAME, cycle(PIPES)))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_changes_no_figure_gives_the_profile_of_a_fresh_pipe(name, change, fresh):
    pipe = PIPES[name]()
    pipe = change(pipe) or pipe
    profile = profiled(pipe)
    assert told(profile) == told(fresh[name])
    compiled = [one for one in profile.assumptions if one.what.startswith(COMPILE)]
    assert bool(compiled) == ("compile" in change.__name__)


# -- what changes figures, as it should


def in_half_precision(pipe):
    pipe.to(torch.bfloat16)


def in_channels_last(pipe):
    pipe.vae.to(memory_format=torch.channels_last)
    getattr(pipe, denoiser(pipe)).to(memory_format=torch.channels_last)
    run(pipe)


def with_an_adapter(pipe):
    part = getattr(pipe, denoiser(pipe))
    pipe.load_lora_weights(
        lora_state_dict(part, denoiser(pipe), 4, torch.float32), adapter_name="it"
    )
    run(pipe)


def with_an_adapter_fused(pipe):
    with_an_adapter(pipe)
    pipe.fuse_lora()


def with_an_adapter_unloaded(pipe):
    with_an_adapter(pipe)
    pipe.unload_lora_weights()


def with_other_attention(pipe):
    getattr(pipe, denoiser(pipe)).set_attn_processor(AttnProcessor())


def with_fused_projections(pipe):
    getattr(pipe, denoiser(pipe)).fuse_qkv_projections()
    run(pipe)


def with_sliced_attention(pipe):
    pipe.enable_attention_slicing()
    run(pipe)


def with_a_vae_in_tiles(pipe):
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    run(pipe)


def with_free_u(pipe):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    run(pipe)


def stored_in_float8(pipe):
    getattr(pipe, denoiser(pipe)).enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    run(pipe)


def with_weights_shared_by_two_components(pipe):
    ours, theirs = (one.get_input_embeddings() for one in (pipe.text_encoder, pipe.text_encoder_2))
    theirs.weight = ours.weight


def with_one_component_twice(pipe):
    pipe.text_encoder = pipe.text_encoder_2


def with_weight_norm(pipe):
    nn.utils.weight_norm(pipe.vae.decoder.conv_in)
    nn.utils.parametrizations.weight_norm(pipe.vae.decoder.conv_out)
    run(pipe)


def training(pipe):
    getattr(pipe, denoiser(pipe)).train().enable_gradient_checkpointing()


OTHER = [
    in_half_precision,
    in_channels_last,
    with_an_adapter,
    with_an_adapter_fused,
    with_an_adapter_unloaded,
    with_other_attention,
    with_fused_projections,
    with_sliced_attention,
    with_a_vae_in_tiles,
    with_free_u,
    stored_in_float8,
    with_weights_shared_by_two_components,
    with_one_component_twice,
    with_weight_norm,
    training,
]


@pytest.mark.parametrize("change", OTHER, ids=lambda change: change.__name__)
def test_a_changed_pipe_is_profiled_as_one_that_was_built_and_changed_on_the_virtual_gpu(change):
    pipe = sdxl()
    change(pipe)
    lent = profiled(pipe)
    with VirtualGPU("rtx-4060"):
        pipe = sdxl()
        change(pipe)
        built = profile_pipeline(pipe, mode="resident", **call_of(pipe))
    assert built.complete, built.error
    assert figures(lent) == figures(built)


def test_a_hook_of_the_users_is_left_out_and_said(fresh):
    pipe, seen = sd15(), []
    pipe.vae.decoder.register_forward_hook(lambda _, __, output: seen.append(output))
    run(pipe)
    profile = profiled(pipe)
    assert told(profile) == told(fresh["sd15"])
    assert len(seen) == 1
    (left_out,) = [one for one in profile.assumptions if one.what.startswith("hook")]
    assert (left_out.what, left_out.count) == ("hook: a hook on a module's forward is left out", 1)


def test_a_pipe_on_meta_is_profiled_as_one_with_weights(fresh):
    pipe = sd15()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to("meta")
    assert profiled(pipe).totals == fresh["sd15"].totals


def test_a_modular_pipeline_is_profiled_and_left_as_it_was(fresh):
    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    parts = {name: part for name, part in sdxl().components.items() if part is not None}
    pipe.update_components(**parts)
    profile = profiled(pipe)
    assert profile.denoisers == ("unet",)
    assert list(profile.steps.index) == [0]
    components = {part.name: part for part in profile.components}
    assert components == {part.name: part for part in fresh["sdxl"].components}
    before = everything(pipe)
    assert profile_pipeline(pipe, gpu="rtx-4060", mode="resident", height=32, width=32).complete
    assert profile_pipeline(pipe, gpu="rtx-4060", mode="model", **call_of(pipe)).complete
    assert everything(pipe) == before


def test_pipelines_that_share_components_are_profiled_each(fresh):
    pipe = sdxl()
    other = StableDiffusionXLImg2ImgPipeline.from_pipe(pipe, torch_dtype=torch.float32)
    run(pipe)
    picture = Image.new("RGB", (32, 32))
    before = everything(pipe)
    words = {"prompt": "a cat", "num_inference_steps": 2, "image": picture, "strength": 1.0}
    assert profile_pipeline(other, gpu="rtx-4060", **words).complete
    assert everything(pipe) == before
    assert told(profiled(pipe)) == told(fresh["sdxl"])


@pytest.mark.parametrize("kind", ["cache", "closure", "encoder"])
def test_what_cannot_be_lent_is_refused_in_one_sentence(kind):
    pipe = flux()
    if kind == "cache":
        pipe.transformer.enable_cache(FirstBlockCacheConfig())
        message = "FluxTransformerBlock carries the diffusers hook 'fbc_leader_block_hook'"
    elif kind == "closure":
        lock, inner = threading.Lock(), pipe.vae.decode
        pipe.vae.decode = lambda *args, **kwargs: inner(*args, **kwargs) if lock else None
        message = "AutoencoderKL.decode is .*lambda.*, which holds what cannot be copied"
    else:
        pipe.text_encoder = pipe.tokenizer = pipe.text_encoder_2 = pipe.tokenizer_2 = None
        message = "has no text encoder: give prompt_embeds="
    before = everything(pipe)
    with pytest.raises(InputError, match=message) as refused:
        profile_pipeline(pipe, gpu="rtx-4060", **call_of(pipe))
    assert "\n" not in str(refused.value)
    assert everything(pipe) == before


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("resident", wrapped_in_a_compiler),
        ("sequential", wrapped_in_a_compiler),
        ("model", compiled_in_place),
        ("group-leaf", compiled_in_place),
    ],
)
def test_a_pipe_that_was_compiled_on_a_virtual_gpu_runs_as_it_was_written_and_says_so(
    mode, change, as_written
):
    with VirtualGPU("rtx-4060"):
        pipe = sd15()
        change(pipe)
        profile = profile_pipeline(pipe, mode=mode, **call_of(pipe))
    assert figures(profile) == as_written(mode)
    assert profile.denoisers == ("unet",)
    (said,) = [one for one in profile.assumptions if one.what.startswith(COMPILE)]
    assert said.what == f"{COMPILE}: {RUNS_EAGERLY}"


@pytest.fixture(scope="module")
def as_written():
    """Return the figures of a pipe that is not compiled, by mode."""

    @cache
    def of(mode):
        with VirtualGPU("rtx-4060"):
            pipe = sd15()
            return figures(profile_pipeline(pipe, mode=mode, **call_of(pipe)))

    return of
