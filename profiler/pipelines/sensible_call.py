"""A call that a pipeline can run, if its user gave none or only a part of one.

The chosen arguments determine no memory beyond what the pipeline's own defaults determine: a short prompt, blank
pictures of the output's size, one for each IP-Adapter, and a strength at which a picture is processed at all. For a
distilled model they are the few steps and the guidance that it is made for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from profiler.errors import InputError
from profiler.pipelines.blank_inputs import (
    KINDS,
    PICTURES,
    blank,
    blank_picture,
    call_parameters,
    denoiser,
)
from profiler.pipelines.known_models import distilled_call, known_entry

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "a photograph of an astronaut riding a horse"

_ADAPTER_SIDE = 512
_GIVEN_PICTURES = frozenset(name for name, kind in KINDS.items() if kind in PICTURES)
# Words in the names of those diffusers pipeline classes (0.42) that process a picture given by the user, although in
# most of their signatures it defaults to None.
_WORK_ON_PICTURES = (
    "Control",
    "Edit",
    "Fill",
    "ImageToVideo",
    "Image2Video",
    "Img2Img",
    "Inpaint",
    "Kontext",
    "Layered",
    "Pix2Pix",
    "Upscale",
    "VideoToVideo",
)


def sensible_call(pipe: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return arguments for `pipe`'s call and the names of those that were chosen for it.

    Args:
        pipe: a diffusers pipeline.
        given: the arguments that the user chose; they are never changed.

    Raises:
        InputError: if there is nothing to encode a prompt with, and no embeddings of one, or an argument that the call
            requires can only be made elsewhere.
    """
    parameters = call_parameters(pipe)
    embeds = any(name.startswith("prompt_embeds") for name in given)
    if not embeds:
        _check_encoder(pipe)
    chosen: dict[str, Any] = {}
    if "prompt" in parameters and "prompt" not in given and not embeds:
        chosen["prompt"] = PROMPT
    for name, kind in required_arguments(pipe).items():
        if name not in given:
            chosen[name] = blank(pipe, name, kind, given)
    chosen.update(_adapter_pictures(pipe, given))
    chosen |= {
        name: value
        for name, value in distilled_call(pipe).items()
        if name in parameters and name not in given and value != parameters[name].default
    }
    chosen |= _per_step(parameters, given)
    if _would_run_no_step(parameters, {**chosen, **given}):
        chosen["strength"] = 1.0
    _check_complete(pipe, {**chosen, **given})
    return {**chosen, **given}, tuple(chosen)


def _per_step(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return lists with a value for each requested step, for arguments whose default has one for each default step.

    Source: `guidance_schedule` of diffusers' Ideogram4Pipeline (0.42), which refuses any other length.
    """
    steps = given.get("num_inference_steps")
    usual = parameters["num_inference_steps"].default if "num_inference_steps" in parameters else 0
    if not isinstance(steps, int) or steps in (0, usual):
        return {}
    return {
        name: [parameter.default[0]] * steps
        for name, parameter in parameters.items()
        if name not in given
        and isinstance(parameter.default, tuple)
        and len(parameter.default) == usual
    }


def _check_complete(pipe: Any, arguments: Mapping[str, Any]) -> None:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = list(inspect.signature(type(pipe).__call__).parameters.values())[1:]
    missing = [
        one.name
        for one in own
        if one.kind in kinds and one.default is one.empty and one.name not in arguments
    ]
    if missing:
        raise InputError(
            f"{type(pipe).__name__} needs {' and '.join(missing)}, which another pipeline or its user makes: "
            f"profile it in Python, with profile_pipeline(pipe, {missing[0]}=...)"
        )


def _check_encoder(pipe: Any) -> None:
    encoders = [part for name, part in vars(pipe).items() if name.startswith("text_encoder")]
    missing = bool(encoders) and all(part is None for part in encoders)
    if missing and "prompt_embeds" in call_parameters(pipe):
        raise InputError(
            f"this {type(pipe).__name__} has no text encoder: give prompt_embeds= and what goes with them"
        )


def required_arguments(pipe: Any) -> dict[str, str]:
    """Return the arguments besides the prompt without which `pipe` cannot be called, by kind.

    The catalogue lists them for its own models; for any other pipe, its class and signature show which pictures.
    """
    entry = known_entry(pipe)
    class_name = type(pipe).__name__
    if entry is not None and entry.pipeline_class == class_name:
        return dict(entry.required_call)
    works_on_pictures = any(word in class_name for word in _WORK_ON_PICTURES)
    texts = {} if entry is None else _texts(entry.required_call)
    return {
        name: texts.get(name) or KINDS[name]
        for name, parameter in call_parameters(pipe).items()
        if name in texts
        or (name in KINDS and parameter.default is parameter.empty)
        or (name in _GIVEN_PICTURES and works_on_pictures)
    }


def _texts(required: Mapping[str, str]) -> dict[str, str]:
    return {name: kind for name, kind in required.items() if kind == "text"}


def blank_pictures(pipe: Any, size: Mapping[str, int]) -> dict[str, Any]:
    """Return the pictures without which `pipe` cannot be called, of this "width" and "height" or the pipe's own."""
    return {
        name: blank(pipe, name, kind, size)
        for name, kind in required_arguments(pipe).items()
        if kind in PICTURES
    }


def _adapter_pictures(pipe: Any, given: Mapping[str, Any]) -> dict[str, list[Image]]:
    """Return a picture for each loaded IP-Adapter; its image encoder resizes any size.

    Source: `load_ip_adapter` of diffusers (0.42) leaves the adapters' projections on the denoiser, as
    `encoder_hid_proj`.
    """
    projection = getattr(denoiser(pipe), "encoder_hid_proj", None)
    adapters = getattr(projection, "image_projection_layers", ())
    if not len(adapters) or {"ip_adapter_image", "ip_adapter_image_embeds"} & set(given):
        return {}
    return {"ip_adapter_image": [blank_picture(_ADAPTER_SIDE, _ADAPTER_SIDE) for _ in adapters]}


def _would_run_no_step(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> bool:
    """Tell whether the default strength leaves none of the requested steps.

    Source: `get_timesteps` of diffusers' image-to-image pipelines (0.42): they run `int(steps * strength)`.
    """
    if "strength" not in parameters or {"strength", "denoising_start"} & set(given):
        return False
    if not set(given) & set(KINDS):  # blocks that also take a picture, and were given none
        return False
    steps, strength = given.get("num_inference_steps"), parameters["strength"].default
    return isinstance(steps, int) and isinstance(strength, float) and int(steps * strength) < 1
