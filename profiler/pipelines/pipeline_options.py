"""What a user does to a pipeline when loading it, or right after: options as data, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPILES = ("regional", "whole")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """The options of a pipeline besides its model, dtypes and quantisation.

    Attributes:
        without: Components that are not loaded, such as "safety_checker".
        loras: LoRA adapters for the denoisers, each a rank ("16"), a rank with the layers that it is for
            ("16:to_q,to_k"), or a file.
        fuse_lora: Whether they are fused into the weights, and unloaded.
        controlnets: ControlNets: their folders, the names of catalogue models that have one, or "" for the one that the
            catalogue has for this kind of pipeline.
        ip_adapters: The number of IP-Adapters.
        inversions: The vectors of each textual inversion.
        channels_last: Whether convolutions are stored channels last.
        attention_backend: A backend of diffusers, such as "_native_cudnn"; "" for the one in effect.
        attention_slicing: "auto", "max" or a number of slices; "" for none.
        compile: "regional" for the repeated blocks of the denoisers, "whole" for all of them; "" for none.
    """

    without: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    fuse_lora: bool = False
    controlnets: tuple[str, ...] = ()
    ip_adapters: int = 0
    inversions: tuple[int, ...] = ()
    channels_last: bool = False
    attention_backend: str = ""
    attention_slicing: str = ""
    compile: str = ""

    def __post_init__(self) -> None:
        """Refuse values without a meaning, and options that need another one."""
        if self.compile and self.compile not in COMPILES:
            raise InputError(f"--compile {self.compile!r}: choose one of {', '.join(COMPILES)}")
        if self.fuse_lora and not self.loras:
            raise InputError("--fuse-lora has no meaning without --lora: add --lora RANK or FILE")
        slicing = self.attention_slicing
        if slicing and slicing not in ("auto", "max") and not slicing.isdecimal():
            raise InputError(f"--attention-slicing {slicing!r}: give auto, max or a number")
        if self.ip_adapters < 0 or any(count < 1 for count in self.inversions):
            raise InputError("IP-Adapters and the vectors of textual inversions are counted from 1")

    @property
    def pipeline_options(self) -> PipelineOptions:
        """These options alone, also of a subclass that has more."""
        names = [one.name for one in fields(PipelineOptions)]
        return PipelineOptions(**{name: getattr(self, name) for name in names})

    def chosen(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain data."""
        found = {
            one.name: (getattr(self, one.name), one.default) for one in fields(PipelineOptions)
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, (value, default) in found.items()
            if value != default
        }


def pipeline_options_of(plain: Mapping[str, Any]) -> PipelineOptions:
    """Return the options that `PipelineOptions.chosen` returned."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    return PipelineOptions(**given)
