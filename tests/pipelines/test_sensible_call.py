"""A pipeline is called sensibly where its user says nothing, and what was chosen is told."""

from __future__ import annotations

import inspect
import json

import diffusers
import pytest
from PIL import Image
from tiny_folder import write_tiny_pipeline

from profiler.errors import InputError
from profiler.pipelines import load_pipeline
from profiler.pipelines.blank_inputs import KINDS, default_side
from profiler.pipelines.recorded_call import plain_call, repeatable_call
from profiler.pipelines.sensible_call import PROMPT, required_arguments, sensible_call
from profiler.pipelines.sibling import sibling
from profiler.sizing.call_arguments import call_arguments
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, verify_plan
from profiler.tracing import profile_pipeline
from profiler.units import GIB
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")


def described(arguments):
    """Return arguments with pictures as their mode and size."""
    return {
        name: (value.mode, value.size) if isinstance(value, Image.Image) else value
        for name, value in arguments.items()
    }


def of_class(name, base, **more):
    """Return the pipe of class `name` that is made of the components of the entry `base`."""
    pipe = load_pipeline(base)
    return getattr(diffusers, name)(**{**pipe.components, **more}, requires_safety_checker=False)


@pytest.mark.parametrize(
    ("model", "given", "chosen"),
    [
        ("sd15", {}, {"prompt": PROMPT}),
        ("sd15", {"prompt": "a cat"}, {}),
        ("sd15", {"prompt_embeds": None}, {}),
        ("kolors", {"prompt": "a cat"}, {"negative_prompt": ""}),
        ("sd15-controlnet", {"prompt": "a cat"}, {"image": ("RGB", (512, 512))}),
        ("sdxl-controlnet", {"width": 768}, {"prompt": PROMPT, "image": ("RGB", (768, 1024))}),
        ("sdxl-refiner", {"prompt": "a cat"}, {"image": ("RGB", (1024, 1024))}),
        (
            "sdxl-inpaint",
            {"prompt": "a cat"},
            {"image": ("RGB", (1024, 1024)), "mask_image": ("L", (1024, 1024))},
        ),
        (
            "ideogram4",
            {"prompt": "a cat", "num_inference_steps": 2},
            {"guidance_schedule": [7.0, 7.0]},
        ),
        ("ideogram4", {"prompt": "a cat", "num_inference_steps": 48}, {}),
        ("qwen-image-layered", {"prompt": "a cat"}, {"image": ("RGBA", (1024, 1024))}),
        ("stable-video-diffusion", {}, {"image": ("RGB", (1024, 576))}),
        ("wan2.1-i2v-14b", {"prompt": "a cat"}, {"image": ("RGB", (832, 480))}),
    ],
)
def test_models_of_the_catalogue_get_what_they_cannot_do_without(model, given, chosen):
    arguments, names = sensible_call(load_pipeline(model), given)

    assert described({name: arguments[name] for name in names}) == chosen
    assert {name: arguments[name] for name in given} == given
    assert set(arguments) == set(given) | set(chosen)


DISTILLED = {
    "sdxl-turbo": {"num_inference_steps": 1, "guidance_scale": 0.0},
    "lcm-dreamshaper-v7": {"guidance_scale": 8.0},  # its class has its four steps
    "z-image-turbo": {"num_inference_steps": 9, "guidance_scale": 0.0},
    "flux1-schnell": {
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "max_sequence_length": 256,
    },
    "flux2-klein-4b": {"num_inference_steps": 4, "guidance_scale": 1.0},
}


@pytest.mark.parametrize(("model", "call"), DISTILLED.items(), ids=DISTILLED)
def test_distilled_model_is_called_as_its_gpu_calls_it(model, call):
    assert sensible_call(load_pipeline(model), {}) == (
        {"prompt": PROMPT, **call},
        ("prompt", *call),
    )


def test_what_the_user_says_of_a_distilled_model_counts():
    given = {"prompt": "a cat", "num_inference_steps": 50, "guidance_scale": 5.0}
    assert sensible_call(load_pipeline("sdxl-turbo"), given) == (given, ())


def test_image_to_image_of_a_distilled_model_has_a_step_to_run():
    pipe = load_pipeline("sdxl-turbo")

    _, names = sensible_call(sibling(pipe, "StableDiffusionXLImg2ImgPipeline"), {"prompt": ""})

    assert names == ("image", "num_inference_steps", "guidance_scale", "strength")


def test_distilled_model_in_a_folder_is_known_by_what_it_was_saved_from(tmp_path):
    pipe = load_pipeline(write_tiny_pipeline(tmp_path))
    assert sensible_call(pipe, {"prompt": ""})[1] == ()
    index = tmp_path / "model_index.json"
    saved_from = {"_name_or_path": "stabilityai/sdxl-turbo"}
    index.write_text(json.dumps({**json.loads(index.read_text()), **saved_from}))

    assert sensible_call(pipe, {"prompt": ""})[1] == ("num_inference_steps", "guidance_scale")


def test_distilled_pipeline_is_known_by_its_own_configuration():
    klein = load_pipeline("flux2-klein-4b")
    klein.register_to_config(_name_or_path="my/klein")
    consistency = load_pipeline("sd15")
    consistency.scheduler = diffusers.LCMScheduler.from_config(consistency.scheduler.config)

    assert sensible_call(klein, {"prompt": ""})[0] == {"prompt": "", **DISTILLED["flux2-klein-4b"]}
    assert sensible_call(consistency, {"prompt": ""})[0] == {"prompt": "", "num_inference_steps": 4}


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"num_inference_steps": 2}, ("prompt", "image", "strength")),  # int(2 * 0.3) is none
        ({"num_inference_steps": 4}, ("prompt", "image")),  # one step
        ({}, ("prompt", "image")),  # 15 of 50
        ({"num_inference_steps": 2, "strength": 0.1}, ("prompt", "image")),  # as the user wants
        ({"num_inference_steps": 2, "denoising_start": 0.5}, ("prompt", "image")),
    ],
)
def test_strength_is_chosen_where_its_default_would_leave_no_step(given, chosen):
    arguments, names = sensible_call(load_pipeline("sdxl-refiner"), given)

    assert names == chosen
    assert arguments.get("strength") == (1.0 if "strength" in chosen else given.get("strength"))


@pytest.mark.parametrize(
    ("class_name", "base", "required"),
    [
        ("StableDiffusionPipeline", "sd15", {}),
        ("StableDiffusionImg2ImgPipeline", "sd15", {"image": "image"}),
        ("StableDiffusionInpaintPipeline", "sd15", {"image": "image", "mask_image": "mask"}),
        (
            "StableDiffusionControlNetImg2ImgPipeline",
            "sd15-controlnet",
            {"image": "image", "control_image": "image"},
        ),
        (
            "StableDiffusionControlNetInpaintPipeline",
            "sd15-controlnet",
            {"image": "image", "mask_image": "mask", "control_image": "image"},
        ),
    ],
)
def test_class_and_signature_tell_what_a_pipe_of_the_users_own_needs(class_name, base, required):
    assert required_arguments(of_class(class_name, base)) == required


# Made elsewhere: a protein's masks, another pipeline's latents, the subjects of BLIP-Diffusion.
ONLY_GIVEN = {
    "is_in_context_conditioning",
    "latents",
    "padding_mask",
    "source_subject_category",
    "supports_local_latent",
    "target_subject_category",
}


def test_required_arguments_of_diffusers_are_known_but_those_that_only_a_user_has():
    classes = [getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Pipeline")]
    current = [one for one in classes if "deprecated" not in one.__module__]
    calls = [one.__call__ for one in current if issubclass(one, diffusers.DiffusionPipeline)]
    parameters = [one for call in calls for one in inspect.signature(call).parameters.values()]
    required = {
        one.name
        for one in parameters
        if one.default is one.empty and one.kind == one.POSITIONAL_OR_KEYWORD
    }
    assert required - {"self", "prompt", *KINDS} == ONLY_GIVEN


def test_argument_that_only_a_user_has_is_asked_for():
    class Upscaler(diffusers.StableDiffusionPipeline):
        def __call__(self, prompt, latents, noise=None):
            """Take what another pipeline made."""

    pipe = load_pipeline("sd15")
    pipe.__class__ = Upscaler

    with pytest.raises(InputError, match="Upscaler needs latents, which another pipeline"):
        sensible_call(pipe, {"prompt": "a cat"})
    assert sensible_call(pipe, {"prompt": "a cat", "latents": 1})[1] == ()


def test_what_a_prior_gives_is_on_the_gpu_where_the_decoder_leaves_it():
    with VirtualGPU("h200"):
        arguments, chosen = sensible_call(load_pipeline("stable-cascade-decoder"), {})

        latents = arguments["image_embeddings"]
        assert (tuple(latents.shape), latents.device.type) == ((1, 16, 24, 24), "cuda")
    assert chosen == ("prompt", "image_embeddings")


def test_another_pipeline_over_a_models_components_is_not_taken_for_the_model():
    pipe = of_class("StableDiffusionImg2ImgPipeline", "sd15")
    pipe.register_to_config(_name_or_path="sd15")

    assert required_arguments(pipe) == {"image": "image"}


def test_several_controlnets_get_a_picture_each():
    net = load_pipeline("sd15-controlnet").controlnet
    pipe = of_class("StableDiffusionControlNetPipeline", "sd15-controlnet", controlnet=[net, net])

    arguments, _ = sensible_call(pipe, {})

    assert [each.size for each in arguments["image"]] == [(512, 512)] * 2


@pytest.mark.parametrize(
    ("class_name", "base"),
    [
        ("StableDiffusionImg2ImgPipeline", "sd15"),
        ("StableDiffusionInpaintPipeline", "sd15"),
        ("StableDiffusionControlNetImg2ImgPipeline", "sd15-controlnet"),
        ("StableDiffusionControlNetInpaintPipeline", "sd15-controlnet"),
    ],
)
def test_pipe_of_the_users_own_runs_without_arguments(class_name, base):
    with VirtualGPU("rtx-4060"):
        pipe = of_class(class_name, base)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)

        profile = profile_pipeline(pipe, mode="model", num_inference_steps=2)

    assert (profile.error, profile.complete) == ("", True)
    assert len(profile.steps) >= 1
    assert {"prompt", "image"} <= set(profile.call_defaults)


def test_refiner_says_that_its_strength_was_chosen():
    with VirtualGPU("rtx-4060"):
        profile = profile_pipeline(
            load_pipeline("sdxl-refiner"), mode="model", num_inference_steps=2
        )

    assert len(profile.steps) == 2
    assert profile.call_defaults == ("prompt", "image", "strength")
    assert (profile.call["strength"], profile.call["image"]) == (1.0, "Image(1024, 1024)")


def test_recorded_call_is_repeated_with_new_pictures_of_the_recorded_sizes():
    pipe = load_pipeline("sdxl-inpaint")
    recorded = {
        "prompt": "a cat",
        "image": "Image(1024, 768)",
        "mask_image": "Image(8, 16)",
        "ip_adapter_image": ["Image(224, 224)"],
    }

    repeated = repeatable_call(pipe, recorded)

    (adapter_picture,) = repeated.pop("ip_adapter_image")
    assert (adapter_picture.mode, adapter_picture.size) == ("RGB", (224, 224))
    assert described(repeated) == {
        "prompt": "a cat",
        "image": ("RGB", (1024, 768)),
        "mask_image": ("L", (8, 16)),
    }


def test_recorded_picture_is_transparent_where_the_vae_takes_four_channels():
    pipe = load_pipeline("qwen-image-layered")

    assert required_arguments(pipe) == {"image": "image"}
    repeated = repeatable_call(pipe, {"image": "Image(640, 640)"})
    assert described(repeated) == {"image": ("RGBA", (640, 640))}


def test_recorded_call_has_the_lists_tuples_and_objects_that_the_call_had():
    pipe = load_pipeline("sdxl-base")
    call = {
        "prompt": "a cat",
        "original_size": (512, 512),
        "sigmas": [1.0, 0.5],
        "cross_attention_kwargs": {"scale": 0.5},
    }

    recorded = plain_call(pipe, call)

    assert recorded.items() >= {**call, "original_size": [512, 512]}.items()
    assert repeatable_call(pipe, recorded).items() >= call.items()


def test_switch_that_is_neither_on_nor_off_is_refused():
    pipe = load_pipeline("pixart-sigma-xl")
    scenario = Scenario(model="pixart-sigma-xl", extra={"use_resolution_binning": "off"})

    with pytest.raises(InputError, match="use_resolution_binning is on or off, not 'off': write"):
        call_arguments(pipe, scenario)


@pytest.mark.parametrize("name", ["num_inference_steps", "guidance_scale", "height", "timesteps"])
def test_word_for_a_number_is_refused(name):
    scenario = Scenario(model="sd15", extra={name: "two"})

    with pytest.raises(InputError, match=f"^{name} is a number or several, not 'two'$"):
        call_arguments(load_pipeline("sd15"), scenario)


def test_words_are_taken_where_they_have_a_meaning():
    extra = {"prompt": "a dog", "output_type": "latent", "negative_prompt": "7"}

    assert call_arguments(load_pipeline("sd15"), Scenario(model="sd15", extra=extra)) == extra


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"height": 256, "width": 384}, (384, 256)),
        ({"height": 256}, (512, 256)),
        ({"width": 384}, (384, 512)),
    ],
)
def test_pictures_get_the_size_of_a_pipeline_that_takes_none(given, size):
    pipe = load_pipeline("sd15", pipeline_class="StableDiffusionImg2ImgPipeline")

    arguments = call_arguments(pipe, Scenario(model="sd15", **given))

    assert described(arguments) == {"image": ("RGB", size)}


def test_plan_of_a_pipeline_with_pictures_is_verified_with_blank_ones():
    plan = plan_model(Scenario(model="sd15-controlnet", steps=2), 5 * GIB)

    verification = verify_plan(plan)

    assert plan.call["image"] == "Image(512, 512)"
    assert (verification.held, verification.differences) == (True, ())


def test_plan_of_another_pipeline_over_a_models_components_is_verified_at_its_size():
    scenario = Scenario(
        model="sd15",
        pipeline_class="StableDiffusionImg2ImgPipeline",
        height=256,
        width=256,
        steps=2,
    )

    plan = plan_model(scenario, 5 * GIB)
    verification = verify_plan(plan)

    assert plan.pipeline_class == "StableDiffusionImg2ImgPipeline"
    assert plan.call["image"] == "Image(256, 256)"
    assert (verification.held, verification.differences) == (True, ())


def test_picture_of_a_scenario_has_the_size_that_was_asked_for():
    pipe = load_pipeline("sd15-controlnet")
    arguments = call_arguments(pipe, Scenario(model="sd15-controlnet", height=256))

    picture = sensible_call(pipe, arguments)[0]["image"]

    assert (arguments, picture.size) == ({"height": 256, "width": 512}, (512, 256))


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("sd15", (512, 512)),  # the UNet's samples
        ("flux1-dev", (1024, 1024)),  # the pipeline's default_sample_size
        ("wan2.1-t2v-1.3b", (832, 480)),  # the signature
        ("cogvideox-5b", (720, 480)),  # the transformer's sample_width and sample_height
    ],
)
def test_default_size_is_the_pipelines_own(model, size):
    pipe = load_pipeline(model)

    assert (default_side(pipe, "width"), default_side(pipe, "height")) == size
