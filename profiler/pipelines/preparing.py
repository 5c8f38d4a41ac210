"""The options of a pipeline put into effect: on its description before it is built, and on the pipe afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from profiler.errors import InputError
from profiler.libraries.modes import DENOISERS
from profiler.libraries.settings_read import default_attention_kept
from profiler.pipelines.adapters import load_inversions, load_ip_adapters, load_loras
from profiler.pipelines.controlnets import with_controlnets

if TYPE_CHECKING:
    from profiler.pipelines.catalogue import Entry
    from profiler.pipelines.pipeline_options import PipelineOptions


def described_with(entry: Entry, options: PipelineOptions) -> Entry:
    """Return the entry without the components that are not loaded, and with ControlNets.

    A text encoder's tokenizer goes with it, as `from_pretrained(..., text_encoder_3=None, tokenizer_3=None)`.

    Raises:
        InputError: if there is no such component, or no ControlNet for this pipeline.
    """
    components = dict(entry.components)
    for name in options.without:
        if components.get(name) is None:
            there = ", ".join(one for one, part in components.items() if part is not None)
            raise InputError(
                f"{entry.name!r} has no component {name!r} to leave out: it has {there}"
            )
        components[name] = None
        tokenizer = name.replace("text_encoder", "tokenizer")
        if tokenizer in components:
            components[tokenizer] = None
    entry = replace(entry, components=components)
    return with_controlnets(entry, options.controlnets) if options.controlnets else entry


def prepare_pipe(pipe: Any, options: PipelineOptions) -> None:
    """Load adapters into a pipe and change its settings, as a user does before it is placed.

    Raises:
        InputError: if the pipeline does not take one of them.
    """
    load_inversions(pipe, options.inversions)
    if options.ip_adapters:
        load_ip_adapters(pipe, options.ip_adapters)
    load_loras(pipe, options.loras, fuse=options.fuse_lora)
    if options.channels_last:
        _store_channels_last(pipe)
    _choose_attention(pipe, options)
    for part in _denoisers(pipe) if options.compile else ():
        _compile(part, options.compile)


def _denoisers(pipe: Any) -> list[Any]:
    parts = (getattr(pipe, name, None) for name in DENOISERS)
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _store_channels_last(pipe: Any) -> None:
    parts = [*_denoisers(pipe), getattr(pipe, "vae", None), getattr(pipe, "controlnet", None)]
    convolving = [part for part in parts if part is not None and _has_convolutions(part)]
    if not convolving:
        raise InputError(f"{type(pipe).__name__} has no convolutions to store channels last")
    for part in convolving:
        part.to(memory_format=torch.channels_last)


def _has_convolutions(part: Any) -> bool:
    return any(isinstance(one, torch.nn.Conv2d) for one in part.modules())


def _choose_attention(pipe: Any, options: PipelineOptions) -> None:
    name = type(pipe).__name__
    if options.attention_slicing:
        slices = options.attention_slicing
        if not hasattr(pipe, "enable_attention_slicing"):
            raise InputError(f"{name} has no enable_attention_slicing()")
        pipe.enable_attention_slicing(int(slices) if slices.isdecimal() else slices)
    if not options.attention_backend:
        return
    taking = [part for part in _denoisers(pipe) if hasattr(part, "set_attention_backend")]
    if not taking:
        raise InputError(f"{name} has no denoiser with set_attention_backend()")
    with default_attention_kept():
        for part in taking:
            try:
                part.set_attention_backend(options.attention_backend)
            except (ValueError, RuntimeError, ImportError) as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(
                    f"--attention-backend {options.attention_backend!r}: {reason}"
                ) from error


def _compile(part: Any, how: str) -> None:
    """Compile a denoiser; on a virtual GPU it runs as it is written, and the profile's assumptions say so."""
    if how == "whole":
        part.compile()
    elif hasattr(part, "compile_repeated_blocks") and getattr(part, "_repeated_blocks", None):
        part.compile_repeated_blocks()
    else:
        raise InputError(
            f"{type(part).__name__} names no repeated blocks to compile: --compile whole compiles all of it"
        )
