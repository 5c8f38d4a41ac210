"""The options that describe a scenario, shared by every subcommand that runs a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from profiler.cli.call_words import call_options, picture_size, setting
from profiler.errors import InputError
from profiler.gpus.hardware import DEFAULT_GPU
from profiler.libraries.modes import DEFAULT_MODE, MODES, Mode
from profiler.pipelines.dtypes import dtypes_of
from profiler.sizing.scenario import Scenario
from profiler.units import parse_bytes

_GPU = "GPU"
_CALL = "Call"
_PLACE = "Placement"
_PIPELINE = "Pipeline"


@dataclass(kw_only=True)
class ScenarioOptions:
    """Options of a scenario, as typed."""

    model: Annotated[
        str,
        typer.Argument(
            help="Catalogue name (`vram list models`), diffusers folder, hub id, or checkpoint in one file "
            "(my-model.safetensors, my-model.gguf)."
        ),
    ]
    config: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Of a checkpoint in one file: the model that it belongs to, by name, folder or hub id, where "
            "diffusers does not recognise it: qwen-image.",
            rich_help_panel=_CALL,
        ),
    ] = ""
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
            help=f"GPU to stand in for, of `vram list gpus`; {DEFAULT_GPU} if none is named. "
            "`vram profile` takes several: rtx-4060,rtx-4090, or all.",
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
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMPONENT",
            help="Load without it: safety_checker, text_encoder_3.",
            rich_help_panel=_PIPELINE,
        ),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RANK[:LAYERS]|FILE",
            help="A LoRA: 16, 16:to_q,to_k, or a file; repeat it for more.",
            rich_help_panel=_PIPELINE,
        ),
    ] = None
    fuse_lora: Annotated[
        bool, typer.Option("--fuse-lora", help="Fuse and unload them.", rich_help_panel=_PIPELINE)
    ] = False
    controlnet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL|FOLDER|default",
            help="A ControlNet: a catalogue model's, a folder, or the default; repeat it for more.",
            rich_help_panel=_PIPELINE,
        ),
    ] = None
    ip_adapters: Annotated[
        int, typer.Option(help="IP-Adapters beside the UNet.", rich_help_panel=_PIPELINE)
    ] = 0
    textual_inversion: Annotated[
        list[int] | None,
        typer.Option(
            metavar="VECTORS",
            help="A textual inversion of so many vectors; repeat it for more.",
            rich_help_panel=_PIPELINE,
        ),
    ] = None
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last", help="Store convolutions channels last.", rich_help_panel=_PIPELINE
        ),
    ] = False
    attention_backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A backend of diffusers: native, _native_cudnn, flash ...",
            rich_help_panel=_PIPELINE,
        ),
    ] = ""
    attention_slicing: Annotated[
        str, typer.Option(help="auto, max or a number of slices.", rich_help_panel=_PIPELINE)
    ] = ""
    compile_: Annotated[
        str,
        typer.Option(
            "--compile",
            metavar="regional|whole",
            help="Compile the denoisers; they are sized as they are written.",
            rich_help_panel=_PIPELINE,
        ),
    ] = ""
    height: Annotated[int | None, typer.Option(help="Pixels.", rich_help_panel=_CALL)] = None
    width: Annotated[int | None, typer.Option(help="Pixels.", rich_help_panel=_CALL)] = None
    frames: Annotated[int | None, typer.Option(help="Of a video.", rich_help_panel=_CALL)] = None
    batch: Annotated[
        int | None, typer.Option(help="Images or videos per prompt.", rich_help_panel=_CALL)
    ] = None
    steps: Annotated[int | None, typer.Option(help="Denoise steps.", rich_help_panel=_CALL)] = None
    pictures: Annotated[
        int | None,
        typer.Option(help="Pictures given to it, such as references.", rich_help_panel=_CALL),
    ] = None
    picture_size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Their size, if it is not the output's.",
            rich_help_panel=_CALL,
        ),
    ] = None
    prompt_words: Annotated[
        int | None, typer.Option(help="Words of the prompt.", rich_help_panel=_CALL)
    ] = None
    negative_prompt: Annotated[
        bool,
        typer.Option(
            "--negative-prompt", help="A negative prompt, as long.", rich_help_panel=_CALL
        ),
    ] = False
    no_guidance: Annotated[
        bool,
        typer.Option(
            "--no-guidance", help="One forward a step in place of two.", rich_help_panel=_CALL
        ),
    ] = False
    max_sequence_length: Annotated[
        int | None, typer.Option(help="Tokens of the prompt.", rich_help_panel=_CALL)
    ] = None
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
            config=self.config,
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
            without=tuple(self.without or ()),
            loras=tuple(self.lora or ()),
            fuse_lora=self.fuse_lora,
            controlnets=tuple("" if one == "default" else one for one in self.controlnet or ()),
            ip_adapters=self.ip_adapters,
            inversions=tuple(self.textual_inversion or ()),
            channels_last=self.channels_last,
            attention_backend=self.attention_backend,
            attention_slicing=self.attention_slicing,
            compile=self.compile_,
            pictures=self.pictures,
            picture_size=None if self.picture_size is None else picture_size(self.picture_size),
            prompt_words=self.prompt_words,
            negative_prompt=self.negative_prompt,
            guidance=not self.no_guidance,
            max_sequence_length=self.max_sequence_length,
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
