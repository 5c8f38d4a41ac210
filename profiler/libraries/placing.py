"""Diffusers' own calls that place a pipeline in a mode, and those that lower its peak.

No private names are used here: these are the calls a user writes. Torch is imported only in the functions that need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profiler.errors import InputError
from profiler.libraries.grouping import group_component, group_options_of, modules_in
from profiler.libraries.modes import DENOISERS, Mode
from profiler.libraries.modular import is_modular, place_modular


def enable_mode(pipe: Any, mode: Mode, *, device: str = "cuda") -> None:
    """Place `pipe` as `mode` says, by diffusers' own calls. The pipe is changed.

    Raises:
        InputError: if the pipeline cannot be placed that way; the message is diffusers' own.
    """
    prepare(pipe, mode)
    place(pipe, mode, device=device)


def prepare(pipe: Any, mode: Mode) -> None:
    """Apply the options of `mode` besides the placement. They come first: offloading must take weights as stored.

    Raises:
        InputError: if the pipeline has nothing that these options apply to.
    """
    with _refusals(pipe, mode):
        if mode.layerwise_casting:
            cast_denoisers(pipe)
        lower_vae_peak(pipe, tiling=mode.vae_tiling, slicing=mode.vae_slicing)


@contextmanager
def _refusals(pipe: Any, mode: Mode) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, LookupError, NotImplementedError) as error:
        name = type(pipe).__name__
        raise InputError(
            f"{name} cannot be placed in mode {mode.name}: {_first_line(error)}"
        ) from error


def cast_denoisers(pipe: Any) -> None:
    """Store the denoisers' weights as float8_e4m3fn.

    Raises:
        InputError: if no denoiser supports it.
    """
    import torch

    found = [part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None]
    cast = [part for part in found if hasattr(part, "enable_layerwise_casting")]
    if not cast:
        raise InputError(
            f"{type(pipe).__name__} has no denoiser that layerwise casting can store in float8"
        )
    for part in cast:
        part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=part.dtype)


def lower_vae_peak(pipe: Any, *, tiling: bool, slicing: bool) -> None:
    """Make the VAE work in tiles, or picture by picture.

    Raises:
        InputError: if there is no VAE that supports it.
    """
    for asked, method in ((tiling, "enable_tiling"), (slicing, "enable_slicing")):
        if asked:
            _vae_method(pipe, method)()


def place(pipe: Any, mode: Mode, *, device: str = "cuda") -> None:
    """Place `pipe` as `mode` says, without its other options.

    Raises:
        InputError: if the pipeline cannot be placed that way.
    """
    with _refusals(pipe, mode):
        if is_modular(pipe):
            place_modular(pipe, mode, device=device)
            return
        match mode.name:
            case "resident":
                pipe.to(device)
            case "model":
                pipe.enable_model_cpu_offload(device=device)
            case "sequential":
                if mode.keep:
                    pipe._exclude_from_cpu_offload = list(mode.keep)
                pipe.enable_sequential_cpu_offload(device=device)
            case _:
                _group(pipe, mode, device)


def _group(pipe: Any, mode: Mode, device: str) -> None:
    if not mode.disk:
        kept = {"exclude_modules": list(mode.keep)} if mode.keep else {}
        pipe.enable_group_offload(**group_options_of(mode, device), **kept)
        return
    for name, part in modules_in(pipe).items():
        group_component(part, group_options_of(mode, device), Path(mode.disk) / name)


def _vae_method(pipe: Any, method: str) -> Any:
    found = getattr(getattr(pipe, "vae", None), method, None)
    if found is None:
        raise InputError(f"{type(pipe).__name__} has no VAE with {method}()")
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return f"{type(error).__name__}: {first}" if isinstance(error, LookupError) else first
