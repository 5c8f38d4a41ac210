"""A call ready to be made, its plain values for a record, and its reconstruction from a record."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.pipelines.blank_inputs import blank_picture, call_parameters, takes_transparency
from profiler.pipelines.cached_prompt import with_cached_prompt
from profiler.pipelines.sensible_call import required_arguments, sensible_call

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHED_PROMPT = "cached_prompt"
"""The name that marks, among a call's arguments, that its prompt was encoded beforehand."""

_RECORDED_PICTURE = re.compile(r"Image\((\d+), (\d+)\)")
_RECORDED_TENSOR = re.compile(r"(?:Virtual)?Tensor\(((?:\d+, ?)*\d*)\)")
_SHAPING = (
    "height",
    "width",
    "num_frames",
    "num_inference_steps",
    "num_images_per_prompt",
    "guidance_scale",
)


class PreparedCall(NamedTuple):
    """A call of a pipeline.

    Attributes:
        arguments: The arguments of the call.
        plain: The same as plain values, for a record.
        chosen: The names of the arguments that were not given.
    """

    arguments: dict[str, Any]
    plain: dict[str, Any]
    chosen: tuple[str, ...]


def prepared_call(pipe: Any, given: Mapping[str, Any]) -> PreparedCall:
    """Return a call of `pipe`, with sensible arguments for required ones that are missing.

    With a cached prompt the text encoders run now, and not in the call.

    Args:
        pipe: a diffusers pipeline.
        given: the arguments that the user chose; `CACHED_PROMPT` may be among them.

    Raises:
        InputError: if the prompt is to be cached and the pipeline does not take embeddings.
    """
    words = {name: value for name, value in given.items() if name != CACHED_PROMPT}
    arguments, chosen = sensible_call(pipe, words)
    plain = plain_call(pipe, arguments)
    if given.get(CACHED_PROMPT):
        arguments = with_cached_prompt(pipe, arguments)
        plain[CACHED_PROMPT] = True
    return PreparedCall(arguments, plain, chosen)


def plain_call(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as plain values, with the defaults that shape the run filled in."""
    parameters = call_parameters(pipe)
    plain: dict[str, Any] = {}
    for name in _SHAPING:
        default = parameters[name].default if name in parameters else None
        if default is not None and default is not inspect.Parameter.empty:
            plain[name] = default
    plain.update({name: _described(value) for name, value in arguments.items()})
    return plain


def repeatable_call(pipe: Any, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded call with new pictures and embeddings, of the same size, for those that the record describes.

    A record holds only lists; arguments that the pipeline annotates as tuples become tuples.
    """
    masks = {name for name, kind in required_arguments(pipe).items() if kind == "mask"}
    repeated = {name: _repeated(value, name in masks, pipe) for name, value in recorded.items()}
    for name, parameter in call_parameters(pipe).items():
        wanted = str(parameter.annotation).lower()
        if isinstance(repeated.get(name), list) and "tuple" in wanted and "list" not in wanted:
            repeated[name] = tuple(repeated[name])
    return repeated


def _described(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _described(item) for name, item in value.items()}
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    return (
        f"{type(value).__name__}{tuple(shape)}"
        if isinstance(shape, tuple | list)
        else type(value).__name__
    )


def _repeated(value: Any, mask: bool, pipe: Any) -> Any:
    if isinstance(value, list):
        return [_repeated(item, mask, pipe) for item in value]
    if not isinstance(value, str):
        return value
    if size := _RECORDED_PICTURE.fullmatch(value):
        return blank_picture(
            int(size[1]), int(size[2]), mask=mask, transparent=takes_transparency(pipe)
        )
    if shape := _RECORDED_TENSOR.fullmatch(value):
        import torch

        dtype = getattr(pipe, "dtype", None)
        return torch.zeros([int(one) for one in re.findall(r"\d+", shape[1])], dtype=dtype)
    return value
