"""Conversion of the options of a call to the arguments of one pipeline's call.

Pipelines name the same thing differently, and refuse different things. Whatever they refuse is the user's mistake, so
it is reported as one.
"""

from __future__ import annotations

import difflib
import re
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import InputError
from profiler.pipelines.blank_inputs import (
    DEFAULT_SIDE,
    blank_picture,
    call_parameters,
    default_side,
)
from profiler.pipelines.refusals import missing_library
from profiler.pipelines.sensible_call import PROMPT, blank_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.sizing.scenario import CallOptions

_NAMES = {
    "height": ("height",),
    "width": ("width",),
    "frames": ("num_frames", "video_length"),
    "batch": ("num_images_per_prompt", "num_videos_per_prompt"),
    "steps": ("num_inference_steps",),
}
_SCALES = ("guidance_scale", "true_cfg_scale")
_NO_GUIDANCE = 1.0  # pipelines (diffusers 0.42) guide if it is above 1
_TAKES_PICTURES = ("image", "input_images", "reference_images", "control_image", "ip_adapter_image")
_SIDES = frozenset({"height", "width"})


def call_arguments(pipe: Any, options: CallOptions) -> dict[str, Any]:
    """Return the keyword arguments of `pipe`'s call for `options`; options that are not set are left out.

    If the pipeline takes no size but works on pictures, the pictures get the size.

    Args:
        pipe: The pipeline to call.
        options: The options of the call.

    Raises:
        InputError: if the pipeline's call has no such argument, or a number is not positive.
    """
    accepted = list(call_parameters(pipe))[1:]
    arguments: dict[str, Any] = {}
    picture_size: dict[str, int] = {}
    for option, names in _NAMES.items():
        value = getattr(options, option)
        if value is None:
            continue
        _positive(option, value)
        name = next((one for one in names if one in accepted), None)
        if name is not None:
            arguments[name] = value
        elif option in _SIDES and blank_pictures(pipe, {}):
            picture_size[option] = value  # the output is as large as the picture
        elif option not in options.inherited:
            raise InputError(f"{type(pipe).__name__} takes no {option}: drop --{option}")
    if picture_size:
        arguments.update(blank_pictures(pipe, picture_size))
    arguments.update(_words_of(pipe, options, accepted))
    arguments.update(_pictures_of(pipe, options, accepted))
    arguments.update(_missing_side(pipe, arguments))
    return {**arguments, **_others(pipe, options, accepted)}


def _words_of(pipe: Any, options: CallOptions, accepted: list[str]) -> dict[str, Any]:
    """Return the arguments for the length of prompts, and for guidance."""
    found: dict[str, Any] = {}
    prompt = PROMPT
    if options.prompt_words is not None:
        _check_taken(pipe, "prompt", accepted, "--prompt-words")
        prompt = found["prompt"] = " ".join(
            ["word"] * _positive("prompt-words", options.prompt_words)
        )
    if options.negative_prompt:
        _check_taken(pipe, "negative_prompt", accepted, "--negative-prompt")
        found["negative_prompt"] = prompt
    if not options.guidance:
        scales = [name for name in _SCALES if name in accepted]
        if not scales:
            raise InputError(f"{type(pipe).__name__} takes no guidance: drop --no-guidance")
        found |= dict.fromkeys(scales, _NO_GUIDANCE)
    if options.max_sequence_length is not None:
        name = "max_sequence_length"
        _check_taken(pipe, name, accepted, "--max-sequence-length")
        found[name] = _positive("max-sequence-length", options.max_sequence_length)
    return found


def _pictures_of(pipe: Any, options: CallOptions, accepted: list[str]) -> dict[str, Any]:
    """Return the pictures that are given to the pipeline, blank."""
    if options.pictures is None and options.picture_size is None:
        return {}
    name = next((one for one in _TAKES_PICTURES if one in accepted), None)
    if name is None:
        raise InputError(f"{type(pipe).__name__} takes no pictures: drop --pictures")
    count = _positive("pictures", 1 if options.pictures is None else options.pictures)
    size = options.picture_size or (
        options.width or default_side(pipe, "width") or DEFAULT_SIDE,
        options.height or default_side(pipe, "height") or DEFAULT_SIDE,
    )
    pictures = [blank_picture(*size) for _ in range(count)]
    return {name: pictures if count > 1 else pictures[0]}


def _check_taken(pipe: Any, name: str, accepted: list[str], option: str) -> None:
    if name not in accepted:
        raise InputError(f"{type(pipe).__name__} takes no {name}: drop {option}")


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise InputError(f"--{option} {value} is not positive")
    return value


def default_of(pipe: Any, option: str) -> int:
    """Return the value that `pipe` takes if an option of a size is left out.

    Raises:
        InputError: if the pipeline has no such option, or its default is not known.
    """
    parameters = call_parameters(pipe)
    name = next((one for one in _NAMES[option] if one in parameters), None)
    if option in _SIDES:
        if name is None and not blank_pictures(pipe, {}):
            raise InputError(f"{type(pipe).__name__} takes no {option}")
        return default_side(pipe, option) or DEFAULT_SIDE
    if name is None:
        raise InputError(f"{type(pipe).__name__} takes no {option}")
    default = parameters[name].default
    if not isinstance(default, int):
        if option == "batch":
            return 1
        raise InputError(f"{type(pipe).__name__} has no {option} by default: give --{option}")
    return default


def _others(pipe: Any, options: CallOptions, accepted: list[str]) -> dict[str, Any]:
    """Return the other arguments of the call, without inherited ones that this pipeline does not take."""
    others = {}
    for name, value in options.extra.items():
        if name in accepted or name not in options.inherited:
            _check_accepted(pipe, name, accepted)
            _check_text(pipe, name, value)
            others[name] = value
    return others


def _missing_side(pipe: Any, arguments: dict[str, Any]) -> dict[str, int]:
    """Return the default width or height if only the other one is given.

    Stable Diffusion's pipeline (diffusers 0.42) silently ignores one without the other.
    """
    missing = set(_SIDES) - set(arguments)
    if len(missing) != 1:
        return {}
    name = missing.pop()
    default = default_side(pipe, name)
    return {} if default is None else {name: default}


def _check_accepted(pipe: Any, name: str, accepted: list[str]) -> None:
    if name not in accepted:
        close = difflib.get_close_matches(name, accepted, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it takes {', '.join(accepted)}"
        raise InputError(f"{type(pipe).__name__} takes no argument {name!r}: {hint}")


def _check_text(pipe: Any, name: str, value: Any) -> None:
    """Refuse text for numbers and for booleans: any text, even "off", counts as true in Python."""
    parameter = call_parameters(pipe)[name]
    if not isinstance(value, str):
        return
    if isinstance(parameter.default, bool):
        raise InputError(f"{name} is on or off, not {value!r}: write {name}=true or {name}=false")
    kinds = set(re.findall(r"\w+", str(parameter.annotation)))
    if kinds & {"int", "float"} and "str" not in kinds:
        raise InputError(f"{name} is a number or several, not {value!r}")


@contextmanager
def refusals_as_input_errors(pipe: Any) -> Iterator[None]:
    """Turn a pipeline's refusal of its arguments, or a missing library, into an InputError.

    Only a ValueError or TypeError raised by the pipeline's own code is a refusal; from deeper it is a failure.
    """
    try:
        yield
    except (ImportError, NameError) as error:
        missing = missing_library(error)
        if not missing:
            raise
        raise InputError(f"{type(pipe).__name__} cannot run: {missing}") from error
    except AttributeError as error:
        lacking = [name for name, part in pipe.components.items() if part is None]
        if not lacking or not str(error).startswith("'NoneType' object has no attribute"):
            raise
        raise InputError(
            f"{type(pipe).__name__} does not run without one of {', '.join(lacking)}, which it was loaded without "
            "(--set output_type=latent leaves out the VAE)"
        ) from error
    except (ValueError, TypeError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if "pipelines" not in Path(raised_in).parts:
            raise
        raise InputError(f"{type(pipe).__name__} refuses the call: {error}") from error
