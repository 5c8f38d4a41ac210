"""The ways diffusers itself can place a pipeline, and the calls that do it.

Nothing here knows a private name: these are the calls a user writes. Torch is imported where it is
needed, so that the names of the modes cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import InputError

MODES = ("resident", "model", "sequential", "group-block", "group-leaf")
DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")
"""Names that diffusers gives to the components which run once a step."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a pipeline is placed, and what lowers its peak besides."""

    name: str = "resident"  # one of MODES
    stream: bool = False  # group modes: copy on a second stream while computing
    record_stream: bool = False  # with `stream`: let the allocator watch instead of synchronizing
    blocks: int | None = None  # group-block: blocks per group, 1 if not given
    vae_tiling: bool = False
    vae_slicing: bool = False
    disk: str = (
        ""  # group modes: a folder; each component's weights go into a folder of its own in it
    )
    layerwise_casting: bool = False  # the denoisers' weights are stored as float8_e4m3fn

    def __post_init__(self) -> None:
        """Refuse what diffusers would refuse, or silently ignore."""
        if self.name not in MODES:
            raise InputError(f"{self.name!r} is no mode: choose one of {', '.join(MODES)}")
        if self.stream and not self.name.startswith("group"):
            raise InputError(
                f"--stream has no meaning in mode {self.name}: group-block and group-leaf stream"
            )
        if self.record_stream and not self.stream:
            raise InputError("record_stream has no meaning without a stream: add --stream")
        if self.disk and not self.name.startswith("group"):
            raise InputError(
                f"--disk has no meaning in mode {self.name}: group-block and group-leaf offload to disk"
            )
        if self.blocks is not None and self.name != "group-block":
            raise InputError(
                f"--blocks has no meaning in mode {self.name}: only group-block groups blocks"
            )
        if self.blocks is not None and self.blocks < 1:
            raise InputError(f"{self.blocks} blocks per group: give 1 or more")
        if self.stream and self.blocks not in (None, 1):
            raise InputError(
                f"diffusers forces one block per group with a stream: drop --blocks {self.blocks}"
            )


def enable_mode(pipe: Any, mode: Mode, *, device: str = "cuda") -> None:
    """Place `pipe` as `mode` says, by diffusers' own calls. The pipe is changed.

    Raises:
        InputError: if the pipeline cannot be placed so; the message is diffusers' own.
    """
    try:
        _lower_peak(pipe, mode)
        _place(pipe, mode, device)
    except (ValueError, TypeError, LookupError, NotImplementedError) as error:
        name = type(pipe).__name__
        raise InputError(
            f"{name} cannot be placed in mode {mode.name}: {_first_line(error)}"
        ) from error


def _lower_peak(pipe: Any, mode: Mode) -> None:
    # Casting comes before offloading: group offload must take the float8 weights, not those before.
    if mode.layerwise_casting:
        _cast_denoisers(pipe)
    for asked, method in ((mode.vae_tiling, "enable_tiling"), (mode.vae_slicing, "enable_slicing")):
        if asked:
            _vae_method(pipe, method)()


def _place(pipe: Any, mode: Mode, device: str) -> None:
    match mode.name:
        case "resident":
            pipe.to(device)
        case "model":
            pipe.enable_model_cpu_offload(device=device)
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case _:
            _group(pipe, mode, device)


def _group(pipe: Any, mode: Mode, device: str) -> None:
    import torch

    by_block = mode.name == "group-block"
    options: dict[str, Any] = {
        "onload_device": torch.device(device),
        "offload_device": torch.device("cpu"),
        "offload_type": "block_level" if by_block else "leaf_level",
        "num_blocks_per_group": (mode.blocks or 1) if by_block else None,
        "use_stream": mode.stream,
        "record_stream": mode.record_stream,
    }
    if mode.disk:
        _group_on_disk(pipe, Path(mode.disk), options)
    else:
        pipe.enable_group_offload(**options)


def _group_on_disk(pipe: Any, folder: Path, options: dict[str, Any]) -> None:
    """Offload each component into a folder of its own.

    diffusers 0.42 names the files by group alone, and takes a file that is there for its own: in one folder, which is
    all that the pipeline's method can be given, components with groups of the same name get each other's weights.
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    for name, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        own = {**options, "offload_to_disk_path": str(folder / name)}
        if hasattr(part, "enable_group_offload"):
            part.enable_group_offload(**own)  # type: ignore[operator]
        else:
            apply_group_offloading(part, **own)


def _cast_denoisers(pipe: Any) -> None:
    import torch

    found = [part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None]
    cast = [part for part in found if hasattr(part, "enable_layerwise_casting")]
    if not cast:
        raise InputError(
            f"{type(pipe).__name__} has no denoiser that layerwise casting can store in float8"
        )
    for part in cast:
        part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=part.dtype)


def _vae_method(pipe: Any, method: str) -> Any:
    found = getattr(getattr(pipe, "vae", None), method, None)
    if found is None:
        raise InputError(f"{type(pipe).__name__} has no VAE with {method}()")
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return f"{type(error).__name__}: {first}" if isinstance(error, LookupError) else first
