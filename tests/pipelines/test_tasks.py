"""Pictures, adapters, several images, embeddings: the call is made, and all bytes are seen and moved."""

from contextlib import nullcontext

import diffusers
import pytest
import torch
from adapters import load_ip_adapter, lora_state_dict, nbytes
from PIL import Image
from shallow_models import shallow_pipeline
from tiny_folder import write_tiny_pipeline

from profiler.errors import InputError
from profiler.pipelines import catalogue, load_pipeline
from profiler.pipelines.building import find_class
from profiler.pipelines.modular import components_taken, find_blocks
from profiler.pipelines.sibling import check_denoisers, find_pipeline_class, sibling
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")


def component(profile, name):
    return next(part for part in profile.components if part.name == name)


def profiled(pipe, gpu, mode="model", **call):
    """Return the profile of one call; all that crossed the link is counted in it."""
    before = gpu.h2d_bytes, gpu.d2h_bytes
    profile = profile_pipeline(pipe, mode=mode, num_inference_steps=2, **call)
    assert profile.error == ""
    crossed = gpu.h2d_bytes - before[0], gpu.d2h_bytes - before[1]
    assert (profile.totals.h2d_bytes, profile.totals.d2h_bytes) == crossed
    return profile


@pytest.mark.parametrize(
    ("model", "pipeline_class", "chosen"),
    [
        ("sdxl-base", "StableDiffusionXLImg2ImgPipeline", ("prompt", "image", "strength")),
        ("sdxl-base", "StableDiffusionXLInpaintPipeline", ("prompt", "image", "mask_image")),
        (
            "sdxl-controlnet",
            "StableDiffusionXLControlNetImg2ImgPipeline",
            ("prompt", "image", "control_image"),
        ),
        ("flux1-dev", "FluxImg2ImgPipeline", ("prompt", "image")),
        ("flux1-dev", "FluxInpaintPipeline", ("prompt", "image", "mask_image")),
        ("flux1-dev", "FluxKontextPipeline", ("prompt", "image")),
        ("sd3-medium", "StableDiffusion3Img2ImgPipeline", ("prompt", "image")),
        ("qwen-image", "QwenImageInpaintPipeline", ("prompt", "image", "mask_image")),
        ("z-image-turbo", "ZImageImg2ImgPipeline", ("prompt", "image", "guidance_scale")),
        ("kolors", "KolorsImg2ImgPipeline", ("prompt", "image", "negative_prompt", "strength")),
        ("ltx-video", "LTXImageToVideoPipeline", ("prompt", "image")),
    ],
)
def test_another_pipeline_over_a_models_components_runs_without_arguments(
    model, pipeline_class, chosen
):
    call = {"num_frames": 9} if "Video" in pipeline_class else {}
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline(model, pipeline_class)
        profile = profiled(pipe, gpu, **call)
    assert (profile.pipeline_class, profile.call_defaults) == (pipeline_class, chosen)
    encoded = [
        e for e in profile.events if (e.kind, e.component, e.entry) == ("enter", "vae", "encode")
    ]
    assert encoded, "the picture goes through the VAE"


def test_a_class_that_needs_more_than_the_model_has_is_refused():
    with pytest.raises(
        InputError, match="'sdxl-base' has no controlnet, which StableDiffusionXLControlNet"
    ):
        load_pipeline("sdxl-base", pipeline_class="StableDiffusionXLControlNetPipeline")


def test_image_to_video_over_a_transformer_that_takes_the_picture():
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline("cogvideox-5b")
        config = {**pipe.transformer.config, "in_channels": 32, "_use_default_values": []}
        transformer = diffusers.CogVideoXTransformer3DModel.from_config(config).to(torch.bfloat16)
        parts = {**pipe.components, "transformer": transformer}
        profile = profiled(diffusers.CogVideoXImageToVideoPipeline(**parts), gpu, num_frames=9)
    assert profile.call_defaults == ("prompt", "image")


@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_an_ip_adapter_is_counted_moved_and_given_a_picture(mode):
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline("sdxl-base")
        bare = profiled(gpu.lend(pipe), gpu, mode)
        adapter_bytes = load_ip_adapter(pipe)
        profile = profiled(pipe, gpu, mode)
    added = component(profile, "unet").bytes - component(bare, "unet").bytes
    assert added == adapter_bytes
    assert profile.call["ip_adapter_image"] == ["Image(512, 512)"]
    entered = [
        e.component for e in profile.events if e.kind == "enter" and e.component == "image_encoder"
    ]
    assert entered
    encoder_bytes = component(profile, "image_encoder").bytes
    moved = profile.totals.h2d_weight_bytes - bare.totals.h2d_weight_bytes
    # Sequential and leaf-level offload send the adapter for each step, the others once.
    steps = 2 if mode in ("sequential", "group-leaf") else 1
    assert moved >= encoder_bytes + steps * adapter_bytes


@pytest.mark.parametrize("mode", ["resident", "model"])
@pytest.mark.parametrize(("model", "name"), [("sdxl-base", "unet"), ("flux1-dev", "transformer")])
def test_a_lora_is_counted_and_moved(model, name, mode):
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline(model)
        bare = profiled(gpu.lend(pipe), gpu, mode)
        denoiser = getattr(pipe, name)
        state = lora_state_dict(denoiser, name, 16, denoiser.dtype)
        pipe.load_lora_weights(dict(state))
        profile = profiled(pipe, gpu, mode)
    added = component(profile, name).bytes - component(bare, name).bytes
    assert added == nbytes(state) > 0
    assert profile.totals.h2d_weight_bytes - bare.totals.h2d_weight_bytes == added


def test_a_lora_of_a_text_encoder_has_the_tensors_of_a_real_one(tmp_path):
    """What transformers reads, it reads on threads of its own."""
    folder = write_tiny_pipeline(tmp_path)
    found = []
    for context in (nullcontext(), VirtualGPU("rtx-4090")):
        with context as gpu:
            pipe = load_pipeline(
                folder, dtype="float16", weights="random" if gpu is None else "none"
            )
            state = lora_state_dict(pipe.unet, "unet", 4, torch.float16) | lora_state_dict(
                pipe.text_encoder, "text_encoder", 4, torch.float16, names=("q_proj", "v_proj")
            )
            pipe.load_lora_weights(dict(state), adapter_name="style")
            pipe.set_adapters(["style"], [0.5])
            adapted = pipe.text_encoder.named_parameters()
            found.append({name: (tuple(one.shape), one.dtype) for name, one in adapted})
            assert pipe.get_list_adapters() == {"unet": ["style"], "text_encoder": ["style"]}
            if gpu is not None:
                profiled(pipe, gpu)
    assert found[0] == found[1]
    assert any("lora_A.style" in name for name in found[0])


@pytest.mark.parametrize("model", ["sdxl-base", "flux1-dev"])
def test_several_images_take_more_activations_and_the_same_weights(model):
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline(model)
        # Several images come channels last out of the VAE's attention, which cuDNN need not copy; one does not.
        pipe.vae.to(memory_format=torch.channels_last)
        one = profiled(gpu.lend(pipe), gpu)
        four = profiled(gpu.lend(pipe), gpu, num_images_per_prompt=4)
    assert four.totals.h2d_weight_bytes == one.totals.h2d_weight_bytes
    decode = [
        max(e.lead_peak_bytes for e in profile.events if e.phase == "decode")
        for profile in (one, four)
    ]
    weights = component(one, "vae").bytes
    # All but the workspace of convolutions.
    assert 3.8 * (decode[0] - weights) < decode[1] - weights <= 4 * (decode[0] - weights)


def test_given_embeddings_leave_the_text_encoders_at_home():
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline("flux1-dev")
        options = {"dtype": torch.bfloat16, "device": "cuda"}
        profile = profiled(
            pipe,
            gpu,
            prompt_embeds=torch.zeros(1, 512, 4096, **options),
            pooled_prompt_embeds=torch.zeros(1, 768, **options),
        )
    assert profile.call["prompt_embeds"] == "VirtualTensor(1, 512, 4096)"
    assert profile.call_defaults == ()
    assert {e.component for e in profile.events if e.kind == "onload"} == {"transformer", "vae"}


def test_embeddings_of_a_user_without_a_gpu_are_on_the_twins():
    pipe = shallow_pipeline("flux1-dev")
    embeds = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)
    pooled = torch.zeros(1, 768, dtype=torch.bfloat16)
    call = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "num_inference_steps": 1}

    profile = profile_pipeline(pipe, mode="model", gpu="h200", **call)

    assert (profile.error, profile.call_defaults) == ("", ())
    assert (type(embeds), embeds.device.type) == (torch.Tensor, "cpu")


def test_a_pipe_that_nobody_placed_is_offloaded_by_default():
    """On the CPU, where it is, it would be sized as 0 bytes."""
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline("sd15")
        profile = profiled(pipe, gpu, mode=None, height=64, width=64)
    assert profile.mode == "model"
    assert profile.totals.h2d_weight_bytes > 0


def test_a_call_with_lists_of_pictures_can_be_saved(tmp_path):
    with VirtualGPU("h200") as gpu:
        pipe = shallow_pipeline("sd15-controlnet")
        parts = {**pipe.components, "controlnet": [pipe.controlnet, pipe.controlnet]}
        several = type(pipe)(**parts)
        profile = profiled(several, gpu, "resident", image=[Image.new("RGB", (512, 512))] * 2)
    profile.save(tmp_path / "profile.parquet")
    assert type(profile).load(tmp_path / "profile.parquet").call["image"] == ["Image(512, 512)"] * 2


@pytest.mark.parametrize(
    ("model", "pipeline_class", "found", "needed"),
    [
        (
            "wan2.1-t2v-1.3b",
            "WanVACEPipeline",
            "WanTransformer3DModel",
            "WanVACETransformer3DModel",
        ),
        ("sd3-medium", "AuraFlowPipeline", "SD3Transformer2DModel", "AuraFlowTransformer2DModel"),
    ],
)
def test_a_task_of_another_models_denoiser_is_refused(model, pipeline_class, found, needed):
    told = f"has a {found} as its transformer, and {pipeline_class} needs a {needed}"

    with pytest.raises(InputError) as by_name:
        load_pipeline(model, pipeline_class=pipeline_class)
    with pytest.raises(InputError) as beside:
        sibling(load_pipeline(model), pipeline_class)

    assert str(by_name.value) == f"{model!r} {told}"
    assert str(beside.value).endswith(told)


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_each_models_own_task_takes_its_denoiser(entry):
    parts = {name: part for name, part in entry.components.items() if part is not None}
    blocks = find_blocks(entry.pipeline_class)
    if blocks is not None:
        assert set(parts) <= components_taken(blocks)
        return
    models = {name: find_class(part.library, part.class_name) for name, part in parts.items()}

    check_denoisers(find_pipeline_class(entry.pipeline_class, entry.name), models, entry.name)
