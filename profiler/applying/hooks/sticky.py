"""Sticky exclusion: excluded components stay on the GPU between calls.

Stock `maybe_free_model_hooks` enables model offload again at the end of every call: everything goes to the CPU, and the
excluded components return. Replaced on the instance, it only offloads the components that carry a hook.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING

from profiler.libraries import hooks as diffusers_private

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def keep_excluded(pipe: DiffusionPipeline) -> None:
    """Let the end of a call leave the pipeline's excluded components where they are."""
    # A bound method, not a closure: a copy of the pipeline is then bound to the copy.
    setattr(pipe, diffusers_private.END_OF_CALL, MethodType(maybe_free_model_hooks, pipe))


def share_end(pipe: DiffusionPipeline, other: DiffusionPipeline) -> None:
    """Let the calls of `other`, a pipeline over components of `pipe`, end as those of `pipe` do.

    By itself it knows no hooks (diffusers 0.42 lists them on the pipeline that set them up), and would leave on the GPU
    whatever its call used last.
    """
    setattr(other, diffusers_private.END_OF_CALL, pipe.maybe_free_model_hooks)


def keeps_excluded(pipe: DiffusionPipeline) -> bool:
    """Tell whether `keep_excluded` is in effect, called by `Plan.apply` or by printed code."""
    method = vars(pipe).get(diffusers_private.END_OF_CALL)
    function = getattr(method, "__func__", None)
    return getattr(function, "__name__", "") == maybe_free_model_hooks.__name__


def maybe_free_model_hooks(self: DiffusionPipeline) -> None:
    """Do what diffusers' method of this name does, but do not move the excluded components."""
    diffusers_private.free_hooked(self)
    for module in diffusers_private.modules_of(self).values():
        hook = diffusers_private.root_hook(module)
        if hasattr(hook, "settle"):  # of streamed blocks
            hook.settle()  # frees a block that was fetched and not called, if the component is excluded
