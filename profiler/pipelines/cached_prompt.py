"""A call whose prompt was encoded before: its embeddings in place of the words, so that no text encoder runs.

Which of the call's arguments the embeddings are is read off the pipeline: `encode_prompt` (diffusers 0.42) ends by
returning variables of the same names.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENCODE = "encode_prompt"
_ON = "cuda"


def with_cached_prompt(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with the embeddings of its prompt, made now and kept on the card.

    Args:
        pipe: a diffusers pipeline; its text encoders run, wherever they are placed, and its call ends.
        arguments: of a call with a prompt; never changed.

    Raises:
        InputError: if the pipeline cannot be called with embeddings, or takes none of those that it makes.
    """
    names = _embeddings_of(pipe)
    encode = getattr(pipe, _ENCODE)
    with torch.no_grad():
        made = encode(**_encoding_arguments(pipe, arguments))
    pipe.maybe_free_model_hooks()
    values = made if isinstance(made, tuple) else (made,)
    taken = dict(zip(names, values, strict=False))
    known = {
        name: tree_map(_on_card, taken[name])
        for name in _parameters(type(pipe).__call__)
        if taken.get(name) is not None
    }
    if not known:
        raise InputError(f"{type(pipe).__name__} takes no embeddings in place of a prompt")
    kept = {name: value for name, value in arguments.items() if not _is_words(name)}
    return {**kept, **_no_words(pipe), **known}


def _embeddings_of(pipe: Any) -> list[str]:
    """Return the names of what `encode_prompt` returns, "" for what is no variable."""
    method = getattr(type(pipe), _ENCODE, None)
    if method is None:
        raise InputError(f"{type(pipe).__name__} has no encode_prompt: its prompt cannot be cached")
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    values = returns[-1].elts if isinstance(returns[-1], ast.Tuple) else [returns[-1]]
    return [value.id if isinstance(value, ast.Name) else "" for value in values]


def _encoding_arguments(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `encode_prompt` takes of a call; how often a prompt is repeated is the call's own affair."""
    accepted = _parameters(getattr(type(pipe), _ENCODE))
    given = {name: value for name, value in arguments.items() if name in accepted}
    for name, parameter in accepted.items():
        if name.startswith("num_") and name.endswith("_per_prompt"):
            given[name] = 1
        elif _is_words(name) and parameter.default is parameter.empty:
            given.setdefault(name, None)
    if "device" in accepted:
        given["device"] = pipe._execution_device
    if "do_classifier_free_guidance" in accepted:
        given["do_classifier_free_guidance"] = _is_guided(pipe, arguments)
    return given


def _is_guided(pipe: Any, arguments: Mapping[str, Any]) -> bool:
    """Tell whether the call also runs without the prompt, by the rule of the pipelines: a scale above 1."""
    parameter = _parameters(type(pipe).__call__).get("guidance_scale")
    scale = arguments.get("guidance_scale", parameter.default if parameter is not None else 1.0)
    return isinstance(scale, int | float) and scale > 1


def _is_words(name: str) -> bool:
    return name.removeprefix("negative_") in {"prompt", "prompt_2", "prompt_3"}


def _no_words(pipe: Any) -> dict[str, None]:
    """Return the prompts that the call insists on, as None."""
    return {
        name: None
        for name, parameter in _parameters(type(pipe).__call__).items()
        if _is_words(name) and parameter.default is not None
    }


def _on_card(value: Any) -> Any:
    return value.to(_ON) if isinstance(value, torch.Tensor) else value


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
