"""The steps in which a pipeline's size can grow, found by what the pipeline itself does with larger values.

Some pipelines refuse a height that is no multiple of 8, some round it, and video pipelines round or refuse frames by
their VAE's factor. A call is begun with the default, and then with a little more, up to the denoiser's first forward:
the step is the least that the pipeline takes and that makes its denoiser's inputs larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from profiler.errors import InputError
from profiler.pipelines.blank_inputs import denoiser
from profiler.pipelines.recorded_call import prepared_call

_TRIED = (1, 2, 4, 8, 16, 32, 64, 128)


class _BegunError(Exception):
    """Ends a call where its denoiser is first called."""

    def __init__(self, numel: int) -> None:
        super().__init__(numel)
        self.numel = numel


def accepted_step(pipe: Any, start: int, arguments_at: Callable[[int], Mapping[str, Any]]) -> int:
    """Return by how much a value must grow for `pipe` to make something larger.

    Args:
        pipe: a diffusers pipeline inside an active virtual GPU.
        start: a value that it accepts.
        arguments_at: returns the arguments of its call at a value.

    Raises:
        InputError: if it refuses `start`, or nothing up to 128 more makes a difference.
    """
    before = _denoised(pipe, arguments_at(start))
    for step in _TRIED:
        try:
            after = _denoised(pipe, arguments_at(start + step))
        except (
            InputError,
            ValueError,
            TypeError,
            RuntimeError,
        ):  # it refuses the value, or stumbles over it
            continue
        if after > before:
            return step
    raise InputError(
        f"{type(pipe).__name__} makes nothing larger of {start + _TRIED[-1]} than of {start}: "
        "give the values to vram profile one by one"
    )


def _denoised(pipe: Any, given: Mapping[str, Any]) -> int:
    """Return the elements that the denoiser of a call is first given."""
    module = denoiser(pipe)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{type(pipe).__name__} has no denoiser by whose inputs a size could be told"
        )

    def begun(_module: Any, args: Any, kwargs: Any) -> None:
        leaves = tree_leaves((args, kwargs))
        raise _BegunError(sum(one.numel() for one in leaves if isinstance(one, torch.Tensor)))

    hook = module.register_forward_pre_hook(begun, with_kwargs=True, prepend=True)
    try:
        pipe(**prepared_call(pipe, given).arguments)
    except _BegunError as reached:
        return reached.numel
    finally:
        hook.remove()
    raise InputError(f"a call of {type(pipe).__name__} does not reach its denoiser")
