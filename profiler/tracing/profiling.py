"""`profile_pipeline`: one run as the user would run it, on the card that is there or on a virtual one."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._pytree import tree_map

from profiler.errors import InputError
from profiler.hardware import Card
from profiler.modes import MODES, Mode, enable_mode
from profiler.pipelines.quiet import quiet
from profiler.pipelines.sensible_call import sensible_call
from profiler.profile import Profile
from profiler.tracing import hooks
from profiler.tracing.bounds import widened
from profiler.tracing.parts import components_of
from profiler.tracing.tracer import trace
from profiler.virtual import VirtualGPU
from profiler.virtual.functions import active_gpu
from profiler.virtual.tensor import CUDA

DEFAULT_CARD = "rtx-4090"


def profile_pipeline(
    pipe: Any,
    *,
    mode: str | Mode | None = None,
    gpu: str | Card | None = None,
    label: dict[str, Any] | None = None,
    **call: Any,
) -> Profile:
    """Run a pipeline once and return its profile.

    Where torch sees a card, `pipe` runs on it as it is. Elsewhere, or with `gpu`, a twin of it runs on a
    virtual card and `pipe` is only read: its mode is repeated on the twin unless `mode` names another, and
    `resident` stands for a pipe that has none.

    Args:
        pipe: a loaded diffusers pipeline.
        mode: how to place it: a name of `profiler.modes.MODES`, or a `Mode` with its options.
        gpu: the virtual card to run on.
        label: `Profile` fields that only the caller knows, as `model`.
        **call: arguments of the pipeline's call, tensors for a twin (prompt embeddings) taken to be on the card;
            sensible ones, blank pictures among them, are taken for those
            that it cannot do without, and named in the profile's `call_defaults`.

    Returns:
        The profile; an incomplete one that says so if the run did not fit in memory, or failed on the
        virtual card as it would on a real one.

    Raises:
        InputError: if the placement cannot be made, or `mode` is asked of a pipe on a real card.

    Example:
        >>> profile = profile_pipeline(pipe, gpu="rtx-4060", mode="model")
        >>> profile.steps
    """
    chosen = Mode(name=mode) if isinstance(mode, str) else mode
    if active_gpu() is not None or (gpu is None and torch.cuda.is_available()):
        if gpu is not None:
            raise InputError(
                "a virtual GPU is already active here: leave gpu= out, or leave its context"
            )
        if chosen is not None and active_gpu() is None:
            raise InputError(
                "mode= places a twin on a virtual card; on a real card place the pipe yourself "
                "(pipe.enable_model_cpu_offload()), or name a virtual card with gpu="
            )
        return _run(pipe, chosen, call, label)
    modules = components_of(pipe)
    wanted = chosen or repeated_mode(hooks.mode_of(pipe, modules))
    with VirtualGPU(gpu or DEFAULT_CARD) as virtual:
        return _run(virtual.lend(pipe), wanted, _on_card(virtual, call), label)


def _on_card(gpu: VirtualGPU, call: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its tensors on the virtual card, where a user with a card would have them."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return gpu.place(leaf.detach().cpu(), CUDA)

    return {name: tree_map(place, value) for name, value in call.items()}


def repeated_mode(name: str) -> Mode:
    """Return the mode of this name, for a twin.

    Raises:
        InputError: for one that no single call of diffusers makes.
    """
    if name == "mixed":
        raise InputError("this pipe mixes several offload modes: say with mode= which one to size")
    if name not in MODES:
        raise InputError(f"this pipe is {name} by a plan: say with mode= which mode to size")
    return Mode(name=name)


def _run(
    pipe: Any, mode: Mode | None, call: dict[str, Any], label: dict[str, Any] | None
) -> Profile:
    arguments, chosen = sensible_call(pipe, call)
    known = {"call": _plain(pipe, arguments), "call_defaults": chosen, **(label or {})}
    tracing = trace(pipe, label=known)
    try:
        with tracing, ExitStack() as stack:
            if active_gpu() is not None:
                # The libraries' notes are for those who will see an image.
                stack.enter_context(quiet())
                _without_bar(pipe, stack)
            if mode is not None:
                enable_mode(pipe, mode)
            pipe(**arguments)
    except torch.cuda.OutOfMemoryError:
        return tracing.profile
    except RuntimeError:
        if active_gpu() is None:
            raise
        return tracing.profile
    virtual = active_gpu()
    if virtual is None:
        return tracing.profile
    with quiet(), ExitStack() as stack:
        _without_bar(pipe, stack)
        return widened(tracing.profile, virtual, pipe, lambda: pipe(**arguments))


def _without_bar(pipe: Any, stack: ExitStack) -> None:
    """Let a run that takes a second show no progress bar, unless the caller set one up."""
    if hasattr(pipe, "set_progress_bar_config") and not hasattr(pipe, "_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
        stack.callback(delattr, pipe, "_progress_bar_config")


def _plain(pipe: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as plain values, with the defaults that shape the run filled in."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    shaping = (
        "height",
        "width",
        "num_frames",
        "num_inference_steps",
        "num_images_per_prompt",
        "guidance_scale",
    )
    plain: dict[str, Any] = {}
    for name in shaping:
        default = parameters[name].default if name in parameters else None
        if default is not None and default is not inspect.Parameter.empty:
            plain[name] = default
    plain.update({name: _described(value) for name, value in arguments.items()})
    return plain


def _described(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list):
        return [_described(item) for item in value]
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    return (
        f"{type(value).__name__}{tuple(shape)}"
        if isinstance(shape, tuple | list)
        else type(value).__name__
    )
