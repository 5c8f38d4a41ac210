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
from profiler.pipelines.known_models import distilled_call, known_entry

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "a photograph of an astronaut riding a horse"

# The fallback: the size that Stable Diffusion's pipelines assume.
_SIDE = 512
_PICTURES = {"image": "image", "mask_image": "mask", "control_image": "image"}
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
    "Pix2Pix",
    "Upscale",
)


def sensible_call(pipe: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return arguments for `pipe`'s call and the names of those that were chosen for it.

    Args:
        pipe: a diffusers pipeline.
        given: the arguments that the user chose; they are never changed.

    Raises:
        InputError: if there is nothing to encode a prompt with, and no embeddings of one.
    """
    parameters = _parameters(pipe)
    embeds = any(name.startswith("prompt_embeds") for name in given)
    if not embeds:
        _check_encoder(pipe)
    chosen: dict[str, Any] = {}
    if "prompt" in parameters and "prompt" not in given and not embeds:
        chosen["prompt"] = PROMPT
    for name, kind in required_arguments(pipe).items():
        if name not in given:
            chosen[name] = _argument(pipe, name, kind, given)
    chosen.update(_adapter_pictures(pipe, given))
    chosen |= {
        name: value
        for name, value in distilled_call(pipe).items()
        if name in parameters and name not in given and value != parameters[name].default
    }
    if _would_run_no_step(parameters, {**chosen, **given}):
        chosen["strength"] = 1.0
    return {**chosen, **given}, tuple(chosen)


def _check_encoder(pipe: Any) -> None:
    encoders = [part for name, part in vars(pipe).items() if name.startswith("text_encoder")]
    missing = bool(encoders) and all(part is None for part in encoders)
    if missing and "prompt_embeds" in _parameters(pipe):
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
        name: texts.get(name) or _PICTURES[name]
        for name, parameter in _parameters(pipe).items()
        if name in texts
        or (name in _PICTURES and (works_on_pictures or parameter.default is parameter.empty))
    }


def _texts(required: Mapping[str, str]) -> dict[str, str]:
    return {name: kind for name, kind in required.items() if kind == "text"}


def blank_pictures(pipe: Any, size: Mapping[str, int]) -> dict[str, Any]:
    """Return the pictures without which `pipe` cannot be called, of this "width" and "height" or the pipe's own."""
    return {
        name: _argument(pipe, name, kind, size)
        for name, kind in required_arguments(pipe).items()
        if kind != "text"
    }


def default_side(pipe: Any, name: str) -> int | None:
    """Return the pixels that `pipe` uses for its "width" or "height" if not given; None if unknown."""
    parameter = _parameters(pipe).get(name)
    if parameter is not None and isinstance(parameter.default, int):
        return parameter.default
    config = getattr(_denoiser(pipe), "config", {})
    samples = (
        getattr(pipe, "default_sample_size", None),
        config.get("sample_size"),
        config.get(f"sample_{name}"),
    )
    sample = next((each for each in samples if isinstance(each, int)), None)
    factor = getattr(pipe, "vae_scale_factor", None) or getattr(
        pipe, "vae_scale_factor_spatial", None
    )
    return None if sample is None or factor is None else sample * factor


def _denoiser(pipe: Any) -> Any:
    """Return the UNet or the transformer, or None. The truth value of a compiled module must not be tested."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    return next((part for part in found if part is not None), None)


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of `pipe`'s call; for a modular pipeline, also those that its blocks take."""
    found = dict(inspect.signature(type(pipe).__call__).parameters)
    for taken in getattr(getattr(pipe, "_blocks", None), "inputs", ()):
        if taken.name is not None:
            kind = inspect.Parameter.KEYWORD_ONLY
            found[taken.name] = inspect.Parameter(taken.name, kind, default=taken.default)
    return found


def _argument(pipe: Any, name: str, kind: str, given: Mapping[str, Any]) -> Any:
    if kind == "text":
        return ""
    picture = _blank(pipe, kind, given)
    control = "control_image" if "control_image" in _parameters(pipe) else "image"
    networks = getattr(getattr(pipe, "controlnet", None), "nets", None)
    return [picture] * len(networks) if networks and name == control else picture


def _blank(pipe: Any, kind: str, given: Mapping[str, Any]) -> Image:
    """Return a picture of the output's size."""
    width, height = (
        given.get(name) or default_side(pipe, name) or _SIDE for name in ("width", "height")
    )
    return blank_picture(width, height, mask=kind == "mask")


def blank_picture(width: int, height: int, *, mask: bool = False) -> Image:
    """Return a black picture, or a mask that lets all of it be painted over."""
    from PIL import Image

    return Image.new("L", (width, height), 255) if mask else Image.new("RGB", (width, height))


def _adapter_pictures(pipe: Any, given: Mapping[str, Any]) -> dict[str, list[Image]]:
    """Return a picture for each loaded IP-Adapter; its image encoder resizes any size.

    Source: `load_ip_adapter` of diffusers (0.42) leaves the adapters' projections on the denoiser, as
    `encoder_hid_proj`.
    """
    projection = getattr(_denoiser(pipe), "encoder_hid_proj", None)
    adapters = getattr(projection, "image_projection_layers", ())
    if not len(adapters) or {"ip_adapter_image", "ip_adapter_image_embeds"} & set(given):
        return {}
    return {"ip_adapter_image": [blank_picture(_SIDE, _SIDE) for _ in adapters]}


def _would_run_no_step(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> bool:
    """Tell whether the default strength leaves none of the requested steps.

    Source: `get_timesteps` of diffusers' image-to-image pipelines (0.42): they run `int(steps * strength)`.
    """
    if "strength" not in parameters or {"strength", "denoising_start"} & set(given):
        return False
    steps, strength = given.get("num_inference_steps"), parameters["strength"].default
    return isinstance(steps, int) and isinstance(strength, float) and int(steps * strength) < 1
