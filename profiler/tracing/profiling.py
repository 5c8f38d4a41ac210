"""`profile_pipeline`: runs a pipeline once as the user would, on the GPU that is there or on a virtual one.

`profile_calls` does the same for several recurring calls, for a plan that suits them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_map

from profiler.checking.given import check_given, check_pipeline, named
from profiler.errors import InputError
from profiler.gpus.hardware import DEFAULT_GPU, GpuSpec
from profiler.libraries.modes import MODES, Mode
from profiler.libraries.modules import components_of
from profiler.libraries.placing import place, prepare
from profiler.pipelines.quiet import quiet
from profiler.pipelines.recorded_call import CACHED_PROMPT, PreparedCall, prepared_call
from profiler.record.profile import Assumption, CallSignature, Profile
from profiler.tracing.accepted import check_accepted, check_label
from profiler.tracing.bounds import widened
from profiler.tracing.own_mode import default_mode, is_in_mode, is_unplaced, own_mode
from profiler.tracing.tracer import Trace, trace
from profiler.tracing.whose import belongs_to
from profiler.virtual import VirtualGPU
from profiler.virtual.device import Device
from profiler.virtual.lending.lend import lend_together
from profiler.virtual.tensor import CUDA
from profiler.virtual.torch_api.functions import active_gpu


class Call:
    """One of several recurring calls.

    Args:
        pipe: another pipeline over components of the profiled one, to be called instead; None for the profiled one.
        weight: how often the call recurs, relative to the others.
        cached_prompt: whether the embeddings of its prompt already exist, so that no text encoder runs.
        **arguments: of the call, as for `profile_pipeline`.

    Raises:
        InputError: if `weight` is not a whole number from 1 on, or `pipe` is not a pipeline.
    """

    def __init__(
        self, pipe: Any = None, *, weight: int = 1, cached_prompt: bool = False, **arguments: Any
    ) -> None:
        if type(weight) is not int or weight < 1:
            raise InputError(f"a call cannot come {weight!r} times: give a whole number from 1 on")
        if pipe is not None:
            check_pipeline(
                pipe,
                to="Call()",
                takes="a pipeline, or none for the profiled one (a prompt is prompt=...)",
            )
        self.pipe = pipe
        self.weight = weight
        self.arguments = {**arguments, CACHED_PROMPT: True} if cached_prompt else arguments

    def __repr__(self) -> str:
        """Return the call as it is written, with values that are not plain shown by their type."""
        words = [] if self.pipe is None else [type(self.pipe).__name__]
        words += [f"weight={self.weight}"] if self.weight != 1 else []
        words += [f"{name}={_shown(value)}" for name, value in self.arguments.items()]
        return f"Call({', '.join(words)})"


def profile_pipeline(
    pipe: Any,
    *,
    mode: str | Mode | None = None,
    gpu: str | GpuSpec | None = None,
    label: dict[str, Any] | None = None,
    cached_prompt: bool = False,
    memory_history: bool = False,
    **call: Any,
) -> Profile:
    """Run a pipeline once and return its profile.

    If torch sees a GPU, `pipe` runs on it as it is. Otherwise, or with `gpu`, or if `pipe` was built outside of the
    active virtual GPU, a twin of it runs on a virtual GPU and `pipe` is only read: its placement is repeated on
    the twin unless `mode` names another. A pipe that has not been placed yet runs under model offload
    (`DEFAULT_MODE`), as with the command, or resident if its class has no sequence for that; the
    profile's assumptions say so.

    Args:
        pipe: a loaded diffusers pipeline.
        mode: the placement: a name of `MODES` (`vram profile --help` lists them), or a `Mode` with its options.
        gpu: the virtual GPU to run on; `DEFAULT_GPU` if torch sees none.
        label: `Profile` fields that only the caller knows, such as `model`.
        cached_prompt: whether the prompt is encoded beforehand, outside of what is profiled.
        memory_history: as for `trace`.
        **call: arguments of the pipeline's call; for a twin, tensors among them (prompt embeddings) are taken to be on
            the GPU. Required arguments that are missing get sensible values, blank pictures among them, which the
            profile's `call_defaults` names.

    Returns:
        The profile; if the run did not fit in memory, or failed on the virtual GPU as it would on a real one, an
        incomplete profile that says so.

    Raises:
        InputError: if `pipe` is not a pipeline, its call does not take an argument, the placement cannot be made,
            `mode` is given for a pipe on a real GPU, or no twin can be made of something in the pipe.

    Example:
        >>> profile = profile_pipeline(pipe, gpu="rtx-4060", mode="model")
        >>> profile.steps
    """
    check_pipeline(pipe, to="profile_pipeline()")
    only = Call(cached_prompt=cached_prompt, **call)
    return profile_calls(pipe, only, mode=mode, gpu=gpu, label=label, memory_history=memory_history)


def profile_calls(
    pipe: Any,
    *calls: Call,
    mode: str | Mode | None = None,
    gpu: str | GpuSpec | None = None,
    label: dict[str, Any] | None = None,
    memory_history: bool = False,
) -> Profile:
    """Run several calls one after another and return the profile of all of them.

    A plan made from it fits each of them, in whatever order they come, and is the best for all together, each
    counted as often as its weight says.

    Args:
        pipe: a loaded diffusers pipeline.
        *calls: the recurring calls.
        mode: as for `profile_pipeline`.
        gpu: as for `profile_pipeline`.
        label: as for `profile_pipeline`.
        memory_history: as for `trace`.

    Raises:
        InputError: as `profile_pipeline`, and if a pipeline has components that `pipe` lacks, or there is no call.

    Example:
        >>> img2img = StableDiffusionXLImg2ImgPipeline(**pipe.components)
        >>> profile = profile_calls(pipe, Call(weight=9, cached_prompt=True), Call(img2img), gpu="rtx-4060")
        >>> plan_offload(profile, 8 << 30)
    """
    _check(pipe, calls)
    chosen = _mode(mode)
    pipes = [pipe, *(pipe if call.pipe is None else call.pipe for call in calls)]
    if active_gpu() is not None or (gpu is None and torch.cuda.is_available()):
        if gpu is not None:
            raise InputError(
                "a virtual GPU is already active here: leave gpu= out, or leave its context"
            )
        if chosen is not None and active_gpu() is None:
            raise InputError(
                "mode= places a twin on a virtual GPU; on a real GPU place the pipe yourself "
                "(pipe.enable_model_cpu_offload()), or name a virtual GPU with gpu="
            )
        virtual = active_gpu()
        if virtual is None or belongs_to(virtual, components_of(pipe)):
            if chosen is None and virtual is not None and is_unplaced(pipe):
                return _by_default(
                    _run(pipes, calls, default_mode(pipe), label, memory_history=memory_history)
                )
            return _run(pipes, calls, chosen, label, memory_history=memory_history)
        return _lent(virtual, pipes, calls, chosen, label, memory_history=memory_history)
    with VirtualGPU(gpu or DEFAULT_GPU) as virtual:
        profile = _lent(virtual, pipes, calls, chosen, label, memory_history=memory_history)
    if gpu is None:
        profile = replace(profile, gpu=replace(profile.gpu, is_default=True))
    return profile


def _lent(
    virtual: Device,
    pipes: list[Any],
    calls: tuple[Call, ...],
    chosen: Mode | None,
    label: dict[str, Any] | None,
    *,
    memory_history: bool,
) -> Profile:
    """Run twins of the pipelines on a virtual GPU, placed as chosen, else as the first pipeline is, else by default."""
    pipe = pipes[0]
    unplaced = chosen is None and is_unplaced(pipe)
    wanted = chosen or (default_mode(pipe) if unplaced else own_mode(pipe))
    lent = lend_together(virtual, pipes)
    profile = _run(lent, calls, wanted, label, lent_to=virtual, memory_history=memory_history)
    if unplaced:
        return _by_default(profile)
    return profile if is_in_mode(pipe, wanted) else _moved(profile)


def _by_default(profile: Profile) -> Profile:
    """Return the profile with an assumption that says that its placement is the default."""
    return _assuming(
        profile,
        f"the pipe was not placed: it ran in mode {profile.mode!r}, the default; mode= names another",
    )


def _moved(profile: Profile) -> Profile:
    """Return the profile with an assumption that says that the pipe itself is placed differently."""
    return _assuming(
        profile,
        f"the pipe is placed otherwise, and that was left out: its twin ran in mode {profile.mode!r}, as mode= says",
    )


def _assuming(profile: Profile, what: str) -> Profile:
    return replace(profile, assumptions=(*profile.assumptions, Assumption(what=what)))


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, str | int | float)
    return named(value) if plain else f"<{type(value).__name__}>"


def _check(pipe: Any, calls: tuple[Call, ...]) -> None:
    check_pipeline(pipe, to="profile_calls()")
    if not calls:
        raise InputError("there is nothing to profile: give at least one Call()")
    for call in calls:
        check_given(call, Call, to="profile_calls()", instead="write Call(height=512), for example")
        check_accepted(pipe if call.pipe is None else call.pipe, call.arguments)


def _mode(mode: str | Mode | None) -> Mode | None:
    if mode is None or isinstance(mode, Mode):
        return mode
    if not isinstance(mode, str):
        raise InputError(f"{named(mode)} is no mode: choose one of {', '.join(MODES)}")
    return Mode(name=mode)


def _on_gpu(gpu: Device, call: dict[str, Any]) -> dict[str, Any]:
    """Return a call with its tensors on the virtual GPU, as a user with a GPU would pass them."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return gpu.place(leaf.detach().cpu(), CUDA)

    return {name: tree_map(place, value) for name, value in call.items()}


def _run(
    pipes: list[Any],
    calls: tuple[Call, ...],
    mode: Mode | None,
    label: dict[str, Any] | None,
    *,
    lent_to: Device | None = None,
    memory_history: bool,
) -> Profile:
    """Trace the calls; the first of `pipes` is the one that is placed, the others are called."""
    pipe, *called = pipes
    with ExitStack() as stack:
        if active_gpu() is not None:
            # The libraries' notes are meant for users who will see an image.
            stack.enter_context(quiet())
            for one in {id(one): one for each in pipes for one in _with_bars(each)}.values():
                _without_bar(one, stack)
        given = [call.arguments for call in calls]
        if lent_to is not None:
            given = [_on_gpu(lent_to, arguments) for arguments in given]
        prepared = list(map(prepared_call, called, given))

        def run() -> None:
            for one, (arguments, _, _) in zip(called, prepared, strict=True):
                one(**arguments)

        check_label(label or {})
        labels = _label_of(called, calls, prepared) | (label or {})
        tracing = trace(pipe, also=called, label=labels, memory_history=memory_history)
        return _traced(tracing, pipe, mode, run)


def _traced(tracing: Trace, pipe: Any, mode: Mode | None, run: Callable[[], None]) -> Profile:
    """Place the pipeline and run under the trace; return the profile, even of a run that failed on the GPU.

    Weights are cast before the trace: a plan must know the components as they are stored.
    """
    if mode is not None:
        prepare(pipe, mode)
    try:
        with tracing:
            if mode is not None:
                place(pipe, mode)
            run()
    except torch.cuda.OutOfMemoryError:
        return tracing.profile
    except RuntimeError:
        if active_gpu() is None:
            raise
        return tracing.profile
    virtual = active_gpu()
    return tracing.profile if virtual is None else widened(tracing.profile, virtual, pipe, run)


def _label_of(
    called: list[Any], calls: tuple[Call, ...], prepared: list[PreparedCall]
) -> dict[str, Any]:
    """Return what the record holds about the calls."""
    labels: dict[str, Any] = {"call": prepared[0].plain, "call_defaults": prepared[0].chosen}
    if len(calls) > 1:
        labels["signatures"] = tuple(
            CallSignature(pipeline_class=type(pipe).__name__, call=one.plain, weight=call.weight)
            for pipe, call, one in zip(called, calls, prepared, strict=True)
        )
    return labels


def _with_bars(pipe: Any) -> Iterator[Any]:
    """Yield a pipeline, or what shows the bars in its place: a modular one's blocks, a combined one's pipelines."""
    waiting = [pipe._blocks if hasattr(pipe, "_blocks") else pipe]
    while waiting:
        one = waiting.pop()
        waiting += getattr(one, "sub_blocks", {}).values()
        combined = [part for part in vars(one).values() if hasattr(part, "set_progress_bar_config")]
        waiting += combined
        if hasattr(one, "set_progress_bar_config") and not combined:
            yield one


def _without_bar(shows_bar: Any, stack: ExitStack) -> None:
    """Hide the progress bar of a run that takes a second, unless the caller has configured one."""
    if not hasattr(shows_bar, "_progress_bar_config"):
        shows_bar.set_progress_bar_config(disable=True)
        stack.callback(delattr, shows_bar, "_progress_bar_config")
