"""A call whose prompt was encoded beforehand: it has embeddings in place of the prompt, so no text encoder runs.

The names of the arguments for the embeddings are read from the pipeline: `encode_prompt` (diffusers 0.42) ends by
returning variables of the same names.

The embeddings were made elsewhere, so on a virtual GPU a twin of the encoders makes them in host memory: the GPU may be
smaller than an encoder, and the GPU, its clock and the pipeline's hooks see only the embeddings.
"""

from __future__ import annotations

import ast
import gc
import inspect
import textwrap
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from profiler.errors import FindingError, InputError
from profiler.libraries.modes import DENOISERS
from profiler.virtual.torch_api.functions import active_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from profiler.virtual.device import Device

_ENCODE = "encode_prompt"
_ON = "cuda"
_NO_ENCODERS = {*DENOISERS, "vae", "controlnet"}  # large, and only queried for a dtype


def with_cached_prompt(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with the embeddings of its prompt, made now and kept on the GPU.

    Args:
        pipe: a diffusers pipeline; on a real GPU its text encoders run, wherever they are placed, and its call ends.
        arguments: of a call with a prompt; never changed.

    Raises:
        InputError: if the pipeline cannot be called with embeddings, or takes none of those that it makes.
        FindingError: if the GPU has no room for the embeddings, or a real one has none for an encoder.
    """
    names = _embeddings_of(pipe)
    gpu = active_gpu()
    try:
        with nullcontext() if gpu is None else _aside(gpu):
            known = _made(pipe, arguments, names)
    except torch.OutOfMemoryError as error:
        raise FindingError(_no_room(pipe, error)) from error
    if not known:
        raise InputError(f"{type(pipe).__name__} takes no embeddings in place of a prompt")
    kept = {name: value for name, value in arguments.items() if not _is_words(name)}
    return {**kept, **_no_words(pipe), **known}


def _made(pipe: Any, arguments: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the embeddings that the call takes, on the GPU."""
    gpu = active_gpu()
    if gpu is None or any(map(_stays_on_gpu, pipe.components.values())):
        made = _encoded(pipe, arguments, pipe._execution_device)
        pipe.maybe_free_model_hooks()
    else:
        made = _encoded(_twin_of_encoders(gpu, pipe), arguments, torch.device("cpu"))
    values = made if isinstance(made, tuple) else (made,)
    taken = dict(zip(names, values, strict=False))
    return {
        name: tree_map(_on_gpu, taken[name])
        for name in _parameters(type(pipe).__call__)
        if taken.get(name) is not None
    }


def _encoded(pipe: Any, arguments: Mapping[str, Any], device: torch.device) -> Any:
    with torch.no_grad():
        return getattr(pipe, _ENCODE)(**_encoding_arguments(pipe, arguments, device))


def _stays_on_gpu(component: Any) -> bool:
    """Tell whether a component computes only on a GPU: bitsandbytes' 8-bit layers, which cannot be moved from there."""
    return bool(getattr(component, "is_loaded_in_8bit", False))


def _twin_of_encoders(gpu: Device, pipe: Any) -> Any:
    """Return a twin of `pipe` in host memory, without hooks; components that encode nothing are shared with `pipe`."""
    if "device" not in _parameters(getattr(type(pipe), _ENCODE)):
        return gpu.lend(pipe)  # it checks the devices of its components
    others = {
        name: part
        for name, part in vars(pipe).items()
        if name in _NO_ENCODERS and isinstance(part, nn.Module)
    }
    encoders = object.__new__(type(pipe))
    vars(encoders).update(vars(pipe) | dict.fromkeys(others))
    twin = gpu.lend(encoders)
    vars(twin).update(others)
    return twin


@contextmanager
def _aside(gpu: Device) -> Iterator[None]:
    """Exclude the host memory taken inside the context from the peaks; all of it must be given back."""
    host = gpu.host
    peaks = host.peak_pageable_bytes, host.peak_bytes, host.peak_shared_bytes
    held_bytes = host.pageable_bytes
    yield
    if host.pageable_bytes > held_bytes:
        gc.collect()  # a twin in a reference cycle
    host.peak_pageable_bytes, host.peak_bytes, host.peak_shared_bytes = peaks


def _no_room(pipe: Any, error: torch.OutOfMemoryError) -> str:
    reason = str(error).partition("\n")[0]
    return (
        f"{type(pipe).__name__}: there is no room for the embeddings of the cached prompt ({reason}); "
        "free the GPU first, or encode elsewhere and give prompt_embeds"
    )


def _embeddings_of(pipe: Any) -> list[str]:
    """Return the names of the values that `encode_prompt` returns, "" for those that are not variables."""
    method = getattr(type(pipe), _ENCODE, None)
    if method is None:
        raise InputError(f"{type(pipe).__name__} has no encode_prompt: its prompt cannot be cached")
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    values = returns[-1].elts if isinstance(returns[-1], ast.Tuple) else [returns[-1]]
    return [value.id if isinstance(value, ast.Name) else "" for value in values]


def _encoding_arguments(
    pipe: Any, arguments: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Return the arguments of a call that `encode_prompt` takes; repeating a prompt is left to the call."""
    accepted = _parameters(getattr(type(pipe), _ENCODE))
    given = {name: value for name, value in arguments.items() if name in accepted}
    for name, parameter in accepted.items():
        if name.startswith("num_") and name.endswith("_per_prompt"):
            given[name] = 1
        elif _is_words(name) and parameter.default is parameter.empty:
            given.setdefault(name, None)
    if "device" in accepted:
        given["device"] = device
    if "do_classifier_free_guidance" in accepted:
        given["do_classifier_free_guidance"] = _is_guided(pipe, arguments)
    return given


def _is_guided(pipe: Any, arguments: Mapping[str, Any]) -> bool:
    """Tell whether the call also runs without the prompt, by the pipelines' own rule: a scale above 1."""
    parameter = _parameters(type(pipe).__call__).get("guidance_scale")
    scale = arguments.get("guidance_scale", parameter.default if parameter is not None else 1.0)
    return isinstance(scale, int | float) and scale > 1


def _is_words(name: str) -> bool:
    return name.removeprefix("negative_") in {"prompt", "prompt_2", "prompt_3"}


def _no_words(pipe: Any) -> dict[str, None]:
    """Return the prompts that the call requires, as None."""
    return {
        name: None
        for name, parameter in _parameters(type(pipe).__call__).items()
        if _is_words(name) and parameter.default is not None
    }


def _on_gpu(value: Any) -> Any:
    return value.to(_ON) if isinstance(value, torch.Tensor) else value


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
