"""Scenarios to run: the model, its call, its placement, and the GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiler.gpus.hardware import GpuSpec, choose_gpu_spec
from profiler.libraries.modes import DEFAULT_MODE, Mode
from profiler.pipelines.pipeline_options import PipelineOptions

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The options of a call. `None` leaves a choice to the pipeline's own default."""

    pipeline_class: str = ""  # another diffusers pipeline over its components; "" for its own
    weight: int = 1  # how often this call occurs, relative to others
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    batch: int | None = None  # images or videos per prompt
    steps: int | None = None
    pictures: int | None = None  # given to the pipeline, such as references to edit by
    picture_size: tuple[int, int] | None = None  # width and height of each, if not the output's
    prompt_words: int | None = None
    negative_prompt: bool = False  # as long as the prompt
    guidance: bool = True  # without it, one forward a step in place of two
    max_sequence_length: int | None = None  # tokens of the prompt
    cached_prompt: bool = False  # the prompt has been encoded before: no text encoder runs
    extra: dict[str, Any] = field(default_factory=dict)  # any other argument of the pipeline's call
    # Options taken over from another call, which are left out if the pipeline does not take them.
    inherited: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Scenario(PipelineOptions, CallOptions):
    """A model, its calls, its placement and its GPU: everything that defines a run."""

    model: str  # catalogue name, diffusers folder, hub id or checkpoint in one file
    config: str = ""  # of such a file: the pipeline that it belongs to; "" for the recognised one
    gpu: str | None = (
        None  # a GPU's key; None for the default GPU, for example if only a capacity is given
    )
    capacity: str | int | None = None  # instead of the GPU's own
    host_launch: float | None = None  # microseconds of the host per launched kernel; None for usual
    dtype: str | Mapping[str, str] | None = None  # of all or by component; the model's own if None
    quantization: dict[str, str] = field(default_factory=dict)  # component to kind, as "bnb-nf4"
    mode: Mode = field(default_factory=lambda: Mode(name=DEFAULT_MODE))
    also: tuple[CallOptions, ...] = ()  # further calls of the run

    @property
    def calls(self) -> tuple[CallOptions, ...]:
        """All calls, the scenario's own first."""
        return (self, *self.also)

    @property
    def dtypes(self) -> dict[str, str]:
        """The requested dtypes by component, "default" for all others; empty for the model's own."""
        if self.dtype is None:
            return {}
        return {"default": self.dtype} if isinstance(self.dtype, str) else dict(self.dtype)

    def gpu_spec(self) -> GpuSpec:
        """Return the GPU to simulate.

        Raises:
            InputError: if the GPU is unknown, the capacity is not a size, or the launch takes no sensible time.
        """
        chosen = choose_gpu_spec(self.gpu, self.capacity)
        return chosen if self.host_launch is None else chosen.with_host_launch(self.host_launch)
