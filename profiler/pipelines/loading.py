"""`load_pipeline`: the real diffusers pipeline class, built from configuration, without weights.

Inside an active virtual GPU its tensors are virtual ones on the CPU, as after `from_pretrained`;
elsewhere they are on `meta`, which is enough to count them, or real and random, which is enough to
run them on a GPU.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from profiler.checking.given import check_given, named
from profiler.errors import InputError
from profiler.pipelines.building import build_module, class_of, find_class, placement, with_weights
from profiler.pipelines.catalogue import Entry, Part, find_entry, tokenizer_facts
from profiler.pipelines.checkpoint import is_checkpoint, read_checkpoint
from profiler.pipelines.dtypes import by_component, dtype_name
from profiler.pipelines.folder import INDEX, read_folder
from profiler.pipelines.hub import fetch_configuration, is_hub_id
from profiler.pipelines.modular import components_taken, find_blocks, of_components
from profiler.pipelines.modular_folder import MODULAR_INDEX, read_modular_folder
from profiler.pipelines.pipeline_options import PipelineOptions
from profiler.pipelines.preparing import described_with, prepare_pipe
from profiler.pipelines.processors import stand_in_processor
from profiler.pipelines.quantising import build_quantised
from profiler.pipelines.quiet import quiet
from profiler.pipelines.refusals import out_of_memory, refused
from profiler.pipelines.sibling import check_denoisers, find_pipeline_class
from profiler.pipelines.single_file import NOTHING, entry_of, keep, load_from_file
from profiler.pipelines.tokenizers import StandInTokenizer, assume

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Any of these beside a tokenizer's configuration means that its real vocabulary is there.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

_WITHOUT_VOCABULARY = ("ByT5Tokenizer",)  # a token is a byte: it needs no file


def load_pipeline(  # noqa: PLR0913  # each has its own name, most as in `from_pretrained`
    model: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | Mapping[str, str | torch.dtype] | None = None,
    weights: str = "none",
    quantization: Mapping[str, Any] | None = None,
    pipeline_class: str = "",
    options: PipelineOptions | None = None,
    config: str | os.PathLike[str] = "",
) -> DiffusionPipeline:
    """Build a pipeline from configuration alone: real shapes and dtypes, and no weights.

    Args:
        model: A name of the catalogue, a local diffusers folder, a hub id `org/name` (of which
            only the JSON and tokenizer files are fetched), or a checkpoint in one file,
            `.safetensors` or `.gguf`, of which only the header is read.
        dtype: "float16", "bfloat16" or "float32", as it would be passed to `from_pretrained`, or a
            mapping from components, and `default` for all others, to dtypes. None, and components
            that the mapping leaves out, mean the dtype that the model card recommends for a name
            of the catalogue, and for a folder the one that its files store, else float32.
        weights: "none", or "random" for real tensors on the CPU with small random numbers: as much
            host memory as the real weights take, and a pipeline that runs on a real GPU.
        quantization: The quantisation of components, by their names: "bnb-nf4", "gguf-q4_k",
            "torchao-int8wo", ... (`profiler.pipelines.quantising.kinds`), or a configuration object
            of diffusers or transformers. A component whose own configuration says that it is
            quantised need not be named. Quantised components need an active virtual GPU, and the
            library that quantises.
        pipeline_class: A diffusers pipeline over the same components, such as
            "StableDiffusionXLImg2ImgPipeline", or modular blocks, such as "FluxAutoBlocks"; "" takes
            the model's own.
        options: What else is done to it: components that are left out, LoRAs, ControlNets, settings.
        config: Of a checkpoint in one file, the pipeline that it is a checkpoint of: a name of the
            catalogue, a folder or a hub id. "" takes the one that diffusers' `from_single_file`
            recognises, if the catalogue has it.

    Raises:
        InputError: The model is not known, is not a pipeline, cannot be fetched or cannot be built,
            its file holds no such model, it lacks a component that `pipeline_class` needs or for
            which a dtype is requested, random weights are requested inside a virtual GPU, which has
            none, a component cannot be quantised that way, a library that it needs is not
            installed, or a dtype is not one that pipelines are loaded in.
        FindingError: A component that is quantised on the GPU does not fit there.
    """
    _check_dtypes(dtype)
    random_weights = _asks_for_random(weights)
    entry = describe(model, config)
    own_class = entry.pipeline_class
    options = options or PipelineOptions()
    entry = described_with(replace(entry, pipeline_class=pipeline_class or own_class), options)
    if entry.pipeline_class != own_class:
        _check_complete(entry)
    pipe = build_pipeline(
        entry,
        dtype=dtype,
        random_weights=random_weights,
        quantization=quantization,
    )
    with quiet():
        prepare_pipe(pipe, options)
    return pipe


def build_pipeline(
    entry: Entry,
    *,
    dtype: str | torch.dtype | Mapping[str, str | torch.dtype] | None = None,
    random_weights: bool = False,
    quantization: Mapping[str, Any] | None = None,
) -> DiffusionPipeline:
    """Build the pipeline that `entry` describes, as `load_pipeline` does.

    Args:
        entry: The description of the pipeline.
        dtype: As for `load_pipeline`.
        random_weights: Whether its weights are real tensors.
        quantization: As for `load_pipeline`.

    Raises:
        InputError: A class, a dtype or a component that a dtype is given for is not known, or a
            component cannot be built or quantised that way.
        FindingError: A component that is quantised on the GPU does not fit there.
    """
    check_given(
        quantization or {},
        Mapping,
        to="load_pipeline(quantization=...)",
        instead='name the component, as {"transformer": "bnb-nf4"}',
    )
    models = with_weights(entry)
    chosen = by_component(dtype, models, entry.name)
    quantised = _quantisation(entry, quantization or {})
    with quiet():
        blocks = find_blocks(entry.pipeline_class)
        cls = blocks or find_pipeline_class(entry.pipeline_class, entry.name)
        wanted = entry.components if blocks is None else components_taken(blocks)
        from_file = NOTHING
        if entry.checkpoint is not None:
            from_file = load_from_file(entry, chosen, random_weights=random_weights)
            _check_not_packed(entry, from_file.modules, quantised)
        components: dict[str, Any] = {
            slot: one for slot, one in from_file.modules.items() if slot in wanted
        }
        for slot, part in entry.components.items():
            is_there = slot in components and slot not in quantised
            if part is None or slot not in wanted or is_there:
                continue
            name = chosen.get(slot) or entry.dtypes.get(slot, entry.dtype)
            weights = _Weights(getattr(torch, name), random_weights, quantised.get(slot))
            try:
                components[slot] = _build_all(part, slot, entry, weights)
            except torch.OutOfMemoryError as error:
                raise out_of_memory(entry.name, slot, error, components) from error
        # AnimateDiff's pipelines make a model of two of their components.
        with nullcontext() if random_weights else placement():
            pipe = (_assemble if blocks is None else _assemble_blocks)(cls, entry, components)
    stated = {*chosen, *from_file.modules}
    unstated = [slot for slot in models if slot in entry.unstated and slot not in stated]
    assume(pipe, [*_assumptions(entry, unstated), *from_file.assumptions])
    keep(pipe, from_file)
    return pipe


def _assumptions(entry: Entry, unstated: list[str]) -> Iterator[str]:
    """Yield what loading assumes, as sentences.

    Args:
        entry: the description of the pipeline.
        unstated: the components whose dtype neither their files nor the caller name.
    """
    if unstated:
        yield (
            f"{entry.dtype} for {', '.join(unstated)}, which their files do not name: choose with dtype= or --dtype"
        )
    for slot, part in entry.components.items():
        if part is not None and part.is_assumed:
            yield f"{slot}: {part.class_name} has no file, and gets its class's defaults"


def describe(model: str | os.PathLike[str], config: str | os.PathLike[str] = "") -> Entry:
    """Return the description of `model`, without building it.

    Args:
        model: As for `load_pipeline`.
        config: As for `load_pipeline`.

    Raises:
        InputError: The model is not known, is not a pipeline, or cannot be fetched, or `config` is
            given for one that has its own.
    """
    if not isinstance(model, str | os.PathLike):
        raise InputError(
            f"{named(model)} is no model: give a name of the catalogue, a diffusers folder or a hub id"
        )
    name = os.fspath(model)
    if is_checkpoint(name):
        checkpoint = read_checkpoint(name)
        return entry_of(checkpoint, _configuration(config) if config else None)
    if config:
        raise InputError(f"{name!r} has its own configuration: --config goes with a single file")
    if Path(name).is_dir():
        return _read(Path(name), name=name)
    if is_hub_id(name):
        return _read(fetch_configuration(name), name=name)
    if os.sep in name:
        raise InputError(f"there is no folder {name!r}, and it is no hub id (org/name) either")
    return find_entry(name)


def _read(folder: Path, *, name: str) -> Entry:
    modular = (folder / MODULAR_INDEX).is_file() and not (folder / INDEX).is_file()
    return (read_modular_folder if modular else read_folder)(folder, name=name)


def _configuration(config: str | os.PathLike[str]) -> Entry:
    if is_checkpoint(os.fspath(config)):
        raise InputError(
            f"{os.fspath(config)!r} is a checkpoint, and no configuration: name a diffusers folder or a model of the "
            "catalogue"
        )
    return describe(config)


def _asks_for_random(weights: str) -> bool:
    if weights not in ("none", "random"):
        raise InputError(f'unknown weights {weights!r}: use "none" or "random"')
    if weights == "random" and type(torch.empty(0)) is not torch.Tensor:
        raise InputError(
            "inside a virtual GPU there are no weights: load before entering it, then use gpu.lend"
        )
    return weights == "random"


def _check_dtypes(asked: Any) -> None:
    """Raise InputError for anything that is not a dtype, before a model is looked for."""
    for dtype in (
        asked.values() if isinstance(asked, Mapping) else () if asked is None else (asked,)
    ):
        dtype_name(dtype)


def _check_complete(entry: Entry) -> None:
    """Raise InputError if the pipeline class requires a component that the entry lacks, or another model's denoiser.

    Blocks say so when they run.
    """
    if find_blocks(entry.pipeline_class) is not None:
        return
    cls = find_pipeline_class(entry.pipeline_class, entry.name)
    missing = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and name not in {*entry.components, *entry.arguments, *cls._optional_components}
    ]
    if missing:
        raise InputError(
            f"{entry.name!r} has no {', '.join(missing)}, which {entry.pipeline_class} needs"
        )
    check_denoisers(
        cls,
        {slot: class_of(part) for slot, part in entry.components.items() if part is not None},
        entry.name,
    )


def _quantisation(entry: Entry, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quantisation of each quantised component: the requested one, or that of its own configuration."""
    own = {
        slot: part.config["quantization_config"]
        for slot, part in entry.components.items()
        if part is not None and part.config.get("quantization_config")
    }
    for slot in asked:
        if entry.components.get(slot) is None:
            there = ", ".join(name for name, part in entry.components.items() if part is not None)
            raise InputError(
                f"{entry.name!r} has no component {slot!r} to quantise: it has {there}"
            )
        if slot in own:
            raise InputError(f"{entry.name!r}: its {slot} is quantised already")
    return {**own, **asked}


def _check_not_packed(entry: Entry, from_file: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise InputError if a component that comes quantised from a file is to be quantised."""
    packed = [slot for slot in asked if slot in from_file]
    if packed and entry.checkpoint is not None and entry.checkpoint.is_gguf:
        raise InputError(f"{entry.name!r}: its {packed[0]} is quantised already")


class _Weights(NamedTuple):
    """The way in which the weights of one component are made."""

    dtype: torch.dtype
    random: bool
    quantisation: Any


def _build_all(part: Part, slot: str, entry: Entry, weights: _Weights) -> Any:
    """Return a component, or a list where the slot takes several."""
    parts = (part, *entry.further.get(slot, ()))
    built = [_build(one, slot, entry, weights) for one in parts]
    return built if len(built) > 1 else built[0]


def _build(part: Part, slot: str, entry: Entry, weights: _Weights) -> Any:
    try:
        cls = find_class(part.library, part.class_name)
        if cls is not None:
            return _build_part(cls, part, weights)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise refused(entry.name, slot, part.class_name, error) from error
    raise InputError(
        f"{entry.name!r} asks for {part.library}.{part.class_name} as its {slot}, "
        "which neither diffusers nor transformers has"
    )


def _build_part(cls: Any, part: Part, weights: _Weights) -> Any:
    if issubclass(cls, torch.nn.Module):
        if weights.quantisation is not None:
            return build_quantised(cls, part.config, weights.dtype, weights.quantisation)
        return build_module(cls, part.config, weights.dtype, random_weights=weights.random)
    if weights.quantisation is not None:
        raise InputError(f"{part.class_name} has no weights to quantise")
    if part.is_text_processor:
        return _text_processor(cls, part)
    if hasattr(cls, "from_config"):
        return cls.from_config(dict(part.config))
    return cls.from_dict(dict(part.config))


def _text_processor(cls: Any, part: Part) -> Any:
    needs_none = part.class_name in _WITHOUT_VOCABULARY
    if part.folder and (needs_none or _has_vocabulary(Path(part.folder))):
        # Without this argument transformers asks on standard input whether to run the folder's own code.
        return cls.from_pretrained(part.folder, trust_remote_code=False)
    if needs_none:
        return cls(**part.config)
    facts = tokenizer_facts(part.config.get("family", part.class_name))
    if facts is None:
        raise InputError(
            f"the tokenizer {part.class_name} cannot be imitated: "
            f"put its own files into {part.folder!r}"
        )
    facts = {**facts, **_own_facts(part.config)}
    if "image_processor" in facts:
        return stand_in_processor(cls, facts, part.config)
    return StandInTokenizer(part.class_name, facts)


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _own_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a model's tokenizer configuration changes in those of its family."""
    own = {key: config[key] for key in ("bos", "eos", "pad", "padding_side") if key in config}
    for name in ("bos", "eos"):
        if config.get(f"add_{name}_token") is not None:
            own[f"adds_{name}"] = config[f"add_{name}_token"]
    limit = config.get("model_max_length")
    return own if limit is None else {**own, "model_max_length": int(limit)}


def _assemble(
    cls: type[DiffusionPipeline], entry: Entry, components: Mapping[str, Any]
) -> DiffusionPipeline:
    """Call the pipeline class with the arguments that it takes; required ones that the entry lacks are None."""
    given = {**entry.arguments, **dict.fromkeys(entry.components), **components}
    arguments = {
        name: given.get(name)
        for name, parameter in inspect.signature(cls).parameters.items()
        if name in given or parameter.default is parameter.empty
    }
    return _named(cls(**arguments), entry)


def _assemble_blocks(blocks: Any, entry: Entry, components: Mapping[str, Any]) -> Any:
    return _named(of_components(blocks, components, entry.arguments), entry)


def _named(pipe: Any, entry: Entry) -> Any:
    pipe.register_to_config(_name_or_path=entry.configured_as or entry.name)
    if entry.vae_tiling:
        pipe.vae.enable_tiling()
    return pipe
