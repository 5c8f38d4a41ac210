"""The options that describe a scenario, shared by every subcommand that runs a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from profiler.cli.call_words import call_options, setting
from profiler.errors import InputError
from profiler.gpus.hardware import DEFAULT_GPU
from profiler.libraries.modes import DEFAULT_MODE, MODES, Mode
from profiler.pipelines.dtypes import dtypes_of
from profiler.sizing.scenario import Scenario
from profiler.units import parse_bytes

_GPU = "GPU"
_CALL = "Call"
_PLACE = "Placement"


@dataclass(kw_only=True)
class ScenarioOptions:
    """Options of a scenario, as typed."""

    model: Annotated[
        str,
        typer.Argument(help="Catalogue name (`vram list models`), diffusers folder, or hub id."),
    ]
    pipeline: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="Another diffusers pipeline over its components: StableDiffusionXLImg2ImgPipeline.",
            rich_help_panel=_CALL,
        ),
    ] = ""
    gpu: Annotated[
        str | None,
        typer.Option(
            help=f"GPU to stand in for, of `vram list gpus`; {DEFAULT_GPU} if none is named.",
            rich_help_panel=_GPU,
        ),
    ] = None
    capacity: Annotated[
        str | None,
        typer.Option(help="Total memory instead of the GPU's own: 8GiB.", rich_help_panel=_GPU),
    ] = None
    host_launch: Annotated[
        float | None,
        typer.Option(
            metavar="MICROSECONDS",
            help="What this machine's processor takes per launched kernel: 25 is fast, 40 usual, 65 slow.",
            rich_help_panel=_GPU,
        ),
    ] = None
    mode: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODES)}.", rich_help_panel=_PLACE)
    ] = DEFAULT_MODE
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Group modes: copy on a stream.", rich_help_panel=_PLACE),
    ] = False
    record_stream: Annotated[
        bool,
        typer.Option("--record-stream", help="With --stream: do not wait.", rich_help_panel=_PLACE),
    ] = False
    blocks: Annotated[
        int | None, typer.Option(help="Blocks per group of group-block.", rich_help_panel=_PLACE)
    ] = None
    disk: Annotated[
        str,
        typer.Option(
            help="Group modes: offload to files in this folder.",
            metavar="FOLDER",
            rich_help_panel=_PLACE,
        ),
    ] = ""
    vae_tiling: Annotated[
        bool, typer.Option("--vae-tiling", help="Decode tile by tile.", rich_help_panel=_PLACE)
    ] = False
    vae_slicing: Annotated[
        bool, typer.Option("--vae-slicing", help="Decode image by image.", rich_help_panel=_PLACE)
    ] = False
    layerwise_casting: Annotated[
        bool,
        typer.Option(
            "--layerwise-casting", help="Keep denoisers in float8.", rich_help_panel=_PLACE
        ),
    ] = False
    dtype: Annotated[
        str | None,
        typer.Option(
            help="bfloat16, float16 or float32; by component: bfloat16,vae=float32.",
            rich_help_panel=_CALL,
        ),
    ] = None
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize",
            metavar="COMPONENT=KIND",
            help="Quantise a component: transformer=nf4 (bnb-, torchao-, quanto-, gguf- kinds).",
            rich_help_panel=_CALL,
        ),
    ] = None
    height: Annotated[int | None, typer.Option(help="Pixels.", rich_help_panel=_CALL)] = None
    width: Annotated[int | None, typer.Option(help="Pixels.", rich_help_panel=_CALL)] = None
    frames: Annotated[int | None, typer.Option(help="Of a video.", rich_help_panel=_CALL)] = None
    batch: Annotated[
        int | None, typer.Option(help="Images or videos per prompt.", rich_help_panel=_CALL)
    ] = None
    steps: Annotated[int | None, typer.Option(help="Denoise steps.", rich_help_panel=_CALL)] = None
    cached_prompt: Annotated[
        bool,
        typer.Option(
            "--cached-prompt",
            help="The prompt was encoded before: no text encoder runs.",
            rich_help_panel=_CALL,
        ),
    ] = False
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other argument of the pipeline's call; repeat it for more.",
            rich_help_panel=_CALL,
        ),
    ] = None
    weight: Annotated[
        int,
        typer.Option(
            help="How often this call comes, beside those of --also.", rich_help_panel=_CALL
        ),
    ] = 1
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CALL",
            help="Another call that comes as well, in the same words: 'height=512 width=512 cached-prompt weight=6' or "
            "'pipeline=StableDiffusionXLImg2ImgPipeline strength=0.6'; what it does not say (size, frames, batch, "
            "steps, --set) is as in the first call. Repeat it for more.",
            rich_help_panel=_CALL,
        ),
    ] = None

    def scenario(self) -> Scenario:
        """Return the scenario that the options describe."""
        main = Scenario(
            model=self.model,
            pipeline_class=self.pipeline,
            gpu=self.gpu,
            capacity=None if self.capacity is None else parse_bytes(self.capacity),
            host_launch=self.host_launch,
            dtype=None if self.dtype is None else dtypes_of(self.dtype),
            quantization=dict(_quantised(one) for one in self.quantize or ()),
            mode=Mode(
                name=self.mode,
                stream=self.stream,
                record_stream=self.record_stream,
                blocks=self.blocks,
                disk=self.disk,
                vae_tiling=self.vae_tiling,
                vae_slicing=self.vae_slicing,
                layerwise_casting=self.layerwise_casting,
            ),
            height=self.height,
            width=self.width,
            frames=self.frames,
            batch=self.batch,
            steps=self.steps,
            cached_prompt=self.cached_prompt,
            extra=dict(setting(one, "--set") for one in self.settings or ()),
            weight=self.weight,
        )
        return replace(main, also=tuple(call_options(one, main) for one in self.also or ()))


def _quantised(text: str) -> tuple[str, str]:
    """Return component and kind of `component=kind`."""
    component, equals, kind = text.partition("=")
    if not equals or not component.isidentifier() or not kind:
        raise InputError(f"--quantize {text!r} names no component and kind: write transformer=nf4")
    return component, kind
