"""A scenario as words of the command line, complete enough for a finding to reproduce the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from profiler.pipelines.dtypes import written
from profiler.units import GIB, MIB, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.libraries.modes import Mode
    from profiler.sizing.scenario import CallOptions, Scenario

_SIZES = ("height", "width", "frames", "batch", "steps")


def command_words(scenario: Scenario, *, placed: bool = True) -> list[str]:
    """Return the model and the options that describe `scenario`, as a list of command-line arguments.

    Args:
        scenario: The scenario to describe.
        placed: Whether to include the placement; without it, only the options that `vram plan` does not decide.
    """
    words = [scenario.model]
    words += _option("--config", scenario.config or None)
    words += _option("--pipeline", scenario.pipeline_class or None)
    words += _option("--gpu", scenario.gpu)
    words += _option("--capacity", scenario.capacity and size_word(parse_bytes(scenario.capacity)))
    words += _option("--host-launch", scenario.host_launch)
    words += _option("--dtype", None if scenario.dtype is None else written(scenario.dtype))
    words += _each("--quantize", (f"{name}={kind}" for name, kind in scenario.quantization.items()))
    words += _pipeline(scenario)
    words += _mode(scenario.mode, placed=placed)
    for name in _SIZES:
        words += _option(f"--{name}", getattr(scenario, name))
    words += [word for one in _call(scenario) for word in _as_option(one)]
    words += _each("--set", (_setting(*one) for one in scenario.extra.items()))
    words += _option("--weight", scenario.weight if scenario.weight != 1 else None)
    return words + _each("--also", map(_also, scenario.also))


def size_word(count: int) -> str:
    """Return `count` bytes as a size that the command accepts, exact to the byte."""
    unit, name = next(one for one in ((GIB, "GiB"), (MIB, "MiB"), (1, "B")) if count % one[0] == 0)
    return f"{count // unit}{name}"


def _mode(mode: Mode, *, placed: bool) -> list[str]:
    words = []
    if placed:
        words += ["--mode", mode.name]
        words += ["--stream"] if mode.stream else []
        words += ["--record-stream"] if mode.record_stream else []
        words += _option("--blocks", mode.blocks)
        words += _option("--disk", mode.disk or None)
    words += ["--vae-tiling"] if mode.vae_tiling else []
    words += ["--vae-slicing"] if mode.vae_slicing else []
    return words + (["--layerwise-casting"] if mode.layerwise_casting else [])


def _option(name: str, value: Any) -> list[str]:
    return [] if value is None else [name, str(value)]


def _each(name: str, values: Any) -> list[str]:
    return [word for value in values for word in (name, value)]


def _setting(name: str, value: Any) -> str:
    """Return `KEY=VALUE` that is read back as the same value: JSON for an object, else a Python literal."""
    return f"{name}={value!r}" if not isinstance(value, dict) else f"{name}={json.dumps(value)}"


def _pipeline(scenario: Scenario) -> list[str]:
    """Return the options of the pipeline besides its model, dtypes and quantisation."""
    words = _each("--without", scenario.without)
    words += _each("--lora", scenario.loras)
    words += ["--fuse-lora"] if scenario.fuse_lora else []
    words += _each("--controlnet", (name or "default" for name in scenario.controlnets))
    words += _option("--ip-adapters", scenario.ip_adapters or None)
    words += _each("--textual-inversion", scenario.inversions)
    words += ["--channels-last"] if scenario.channels_last else []
    words += _option("--attention-backend", scenario.attention_backend or None)
    words += _option("--attention-slicing", scenario.attention_slicing or None)
    return words + _option("--compile", scenario.compile or None)


def _call(call: CallOptions) -> Iterator[str]:
    """Yield the words of a call that are neither its size nor an argument of the pipeline."""
    if call.pictures is not None:
        yield f"pictures={call.pictures}"
    if call.picture_size is not None:
        yield "picture-size={}x{}".format(*call.picture_size)
    if call.prompt_words is not None:
        yield f"prompt-words={call.prompt_words}"
    if call.negative_prompt:
        yield "negative-prompt"
    if not call.guidance:
        yield "no-guidance"
    if call.max_sequence_length is not None:
        yield f"max-sequence-length={call.max_sequence_length}"
    if call.cached_prompt:
        yield "cached-prompt"


def _as_option(word: str) -> list[str]:
    """Return a word of `--also` as an option of its own."""
    name, equals, value = word.partition("=")
    return [f"--{name}", value] if equals else [f"--{name}"]


def _also(call: CallOptions) -> str:
    """Return a call as the argument of `--also`."""
    return " ".join(_also_words(call))


def _also_words(call: CallOptions) -> Iterator[str]:
    if call.pipeline_class:
        yield f"pipeline={call.pipeline_class}"
    for name in (*_SIZES, "weight"):
        value = getattr(call, name)
        if value is not None and (name, value) != ("weight", 1) and name not in call.inherited:
            yield f"{name}={value}"
    yield from _call(call)
    for name, value in call.extra.items():
        if name not in call.inherited:
            yield _setting(name, value)
