"""Inputs that a pipeline cannot do without, blank: pictures and videos of the output's size, and embeddings of zeros.

Their sizes count, their values do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

KINDS: Mapping[str, str] = {
    "image": "image",
    "mask_image": "mask",
    "control_image": "image",
    "condtioning_image": "image",  # as BLIP-Diffusion's ControlNet spells it
    "reference_image": "image",
    "control_mask": "mask",
    "video": "video",
    "control_video": "video",
    "conditioning_frames": "video",
    "pose_video": "video",
    "face_video": "video",
    "driving_video": "video",
    "controls": "video",
    "hint": "picture tensor",
    "image_embeds": "image embedding",
    "negative_image_embeds": "image embedding",
    "image_embeddings": "prior latents",
    "class_labels": "label",
    "lyrics": "lyrics",
}
"""The kind of each argument that diffusers' pipelines (0.42) require besides the prompt, by its name."""

PICTURES = frozenset({"image", "mask", "video"})
"""The kinds that have the output's size."""

_NEVER_MADE = PICTURES | {"lyrics"}
"""The kinds that only a user gives; blocks also call required what earlier ones make: latents, timesteps."""

_LYRICS = "[verse]\nAn astronaut rides a horse"  # models refuse none at all

DEFAULT_SIDE = 512  # the size that Stable Diffusion's pipelines assume
_GPU = "cuda"
_FRAMES = ("num_frames", "video_length", "segment_frame_length")
_MOST_FRAMES = 81  # as most video pipelines have it


def blank(pipe: Any, name: str, kind: str, given: Mapping[str, Any]) -> Any:
    """Return a blank value of an argument of `pipe`'s call.

    Args:
        pipe: a diffusers pipeline.
        name: the argument.
        kind: its kind, one of the values of `KINDS`, or "text".
        given: the other arguments, of which the size and the number of frames are read.
    """
    value = _BLANK[kind](pipe, given)
    control = "control_image" if "control_image" in call_parameters(pipe) else "image"
    networks = getattr(getattr(pipe, "controlnet", None), "nets", None)
    return [value] * len(networks) if networks and name == control else value


def blank_picture(
    width: int, height: int, *, mask: bool = False, transparent: bool = False
) -> Image:
    """Return a black picture, with or without transparency, or a mask that lets all of it be painted over."""
    from PIL import Image

    if mask:
        return Image.new("L", (width, height), 255)
    return Image.new("RGBA" if transparent else "RGB", (width, height))


def takes_transparency(pipe: Any) -> bool:
    """Tell whether `pipe` works on pictures with transparency: its VAE encodes four channels, and none adds the fourth.

    Source: `AutoencoderKLQwenImage` of diffusers (0.42) with the configuration of Qwen-Image-Layered.
    """
    config = getattr(getattr(pipe, "vae", None), "config", {})
    return bool(config.get("input_channels") == 4)


def default_side(pipe: Any, name: str) -> int | None:
    """Return the pixels that `pipe` uses for its "width" or "height" if not given; None if unknown."""
    parameter = call_parameters(pipe).get(name)
    if parameter is not None and isinstance(parameter.default, int):
        return parameter.default
    config = getattr(denoiser(pipe), "config", {})
    if isinstance(side := getattr(pipe, f"default_{name}", None), int):  # of a modular pipeline
        return side
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


def denoiser(pipe: Any) -> Any:
    """Return the UNet or the transformer, or None. The truth value of a compiled module must not be tested."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer", "decoder"))
    return next((part for part in found if part is not None), None)


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of `pipe`'s call; for a modular pipeline, also those that its blocks take."""
    found = dict(inspect.signature(type(pipe).__call__).parameters)
    for taken in getattr(getattr(pipe, "_blocks", None), "inputs", ()):
        if taken.name is not None:
            asked = taken.required and KINDS.get(taken.name) in _NEVER_MADE
            found[taken.name] = inspect.Parameter(
                taken.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if asked else taken.default,
                annotation=taken.type_hint,
            )
    return found


def _size(pipe: Any, given: Mapping[str, Any]) -> tuple[int, int]:
    """Return the output's width and height."""
    width, height = (
        given.get(name) or default_side(pipe, name) or DEFAULT_SIDE for name in ("width", "height")
    )
    return width, height


def _video(pipe: Any, given: Mapping[str, Any]) -> list[Image]:
    parameters = call_parameters(pipe)
    defaults = [parameters[name].default for name in _FRAMES if name in parameters]
    asked = (*(given.get(name) for name in _FRAMES), *defaults)
    motion = getattr(getattr(pipe, "motion_adapter", None), "config", {})
    most = min(_MOST_FRAMES, motion.get("motion_max_seq_length", _MOST_FRAMES))  # of AnimateDiff
    frames = next((one for one in asked if isinstance(one, int)), most)
    return [blank_picture(*_size(pipe, given)) for _ in range(frames)]


def _picture_tensor(pipe: Any, given: Mapping[str, Any]) -> torch.Tensor:
    width, height = _size(pipe, given)
    return _zeros(pipe, 1, 3, height, width)


def _image_embedding(pipe: Any, given: Mapping[str, Any]) -> torch.Tensor:
    """Return what Kandinsky's prior gives: one vector, as wide as the UNet takes it."""
    return _zeros(pipe, 1, denoiser(pipe).config.encoder_hid_dim)


def _prior_latents(pipe: Any, given: Mapping[str, Any]) -> torch.Tensor:
    """Return what Stable Cascade's prior gives for a picture, on the GPU: the decoder leaves it where it is.

    Source: `StableCascadePriorPipeline` of diffusers (0.42) rounds pixels / 42.67 up; the decoder takes
    `effnet_in_channels`.
    """
    import torch

    width, height = (given.get(name) or 1024 for name in ("width", "height"))
    rows, columns = (-(-side * 100 // 4267) for side in (height, width))
    latents = _zeros(pipe, 1, denoiser(pipe).config.effnet_in_channels, rows, columns)
    return latents.to(_GPU) if torch.cuda.is_available() else latents


def _zeros(pipe: Any, *shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(*shape, dtype=pipe.dtype)


_BLANK: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "text": lambda pipe, given: "",
    "lyrics": lambda pipe, given: _LYRICS,
    "image": lambda pipe, given: blank_picture(
        *_size(pipe, given), transparent=takes_transparency(pipe)
    ),
    "mask": lambda pipe, given: blank_picture(*_size(pipe, given), mask=True),
    "video": _video,
    "picture tensor": _picture_tensor,
    "image embedding": _image_embedding,
    "prior latents": _prior_latents,
    "label": lambda pipe, given: [0],
}
