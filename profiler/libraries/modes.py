"""The placements of a whole pipeline that diffusers itself offers, as data; `placing` makes the calls."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.errors import InputError

MODES = ("resident", "model", "sequential", "group-block", "group-leaf")
DEFAULT_MODE = "model"
"""The default placement of a pipeline, by `enable_model_cpu_offload`."""
DENOISERS = ("transformer", "transformer_2", "unet", "prior", "decoder")
"""The names that diffusers gives to the components that run once per step."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The placement of a pipeline, and options that lower its peak."""

    name: str = "resident"  # one of MODES
    stream: bool = False  # group modes: copy on a second stream while computing
    record_stream: bool = False  # with `stream`: the allocator tracks uses, without synchronizing
    blocks: int | None = None  # group-block: blocks per group, 1 if not given
    vae_tiling: bool = False
    vae_slicing: bool = False
    disk: str = (
        ""  # group modes: a folder; each component's weights go into a folder of its own in it
    )
    layerwise_casting: bool = False  # the denoisers' weights are stored as float8_e4m3fn
    keep: tuple[str, ...] = ()  # sequential and group modes: components that stay on the GPU

    def __post_init__(self) -> None:
        """Refuse options that diffusers would refuse, or silently ignore."""
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

    @property
    def unsplit(self) -> Mode:
        """The same mode under model offload: no component is split, and the other options stay."""
        return Mode(
            name="model",
            vae_tiling=self.vae_tiling,
            vae_slicing=self.vae_slicing,
            layerwise_casting=self.layerwise_casting,
        )
