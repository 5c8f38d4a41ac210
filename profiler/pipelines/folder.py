"""A diffusers folder on disk, read as an `Entry`: `model_index.json` and the files of each part.

`profiler/pipelines/modular_folder.py` reads those of modular pipelines.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiler.errors import InputError
from profiler.pipelines.catalogue import Entry, Part
from profiler.pipelines.dtypes import NAMES

INDEX = "model_index.json"
# The files in which a component keeps its configuration, by kind; the first that exists is read.
_CONFIG_FILES = ("config.json", "scheduler_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer_config.json",)
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# What these are built from if they have no file: their classes' defaults, which most published ones equal.
_WITH_DEFAULTS = ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor", "VideoProcessor")


def read_folder(folder: Path, *, name: str) -> Entry:
    """Return the entry that `folder` describes.

    Args:
        folder: A folder laid out as by `DiffusionPipeline.save_pretrained`.
        name: The user's name for it.

    Raises:
        InputError: `folder` is not a pipeline, or one of its files cannot be read.
    """
    index_file = folder / INDEX
    if not index_file.is_file():
        raise InputError(
            f"{str(folder)!r} is no diffusers pipeline: it has no {INDEX}, and no modular_{INDEX}; "
            "give the folder that save_pretrained of a pipeline wrote"
        )
    index = read_json(index_file)
    if not isinstance(index.get("_class_name"), str):
        raise InputError(f"{str(index_file)!r} names no pipeline class (_class_name)")
    components: dict[str, Part | None] = {}
    arguments: dict[str, Any] = {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if _is_component(value, folder / key):
            components[key] = read_part(folder / key, value)
        else:
            arguments[key] = value
    return entry_of(name, index["_class_name"], components, arguments)


def entry_of(
    name: str, class_name: str, components: dict[str, Part | None], arguments: dict[str, Any]
) -> Entry:
    """Return the entry of components that were read from folders.

    The dtype is the one that all components that store one agree on, by their weights' headers or, without weights, by
    their configurations; else float32.
    """
    stored = {slot: _stored_dtype(part) for slot, part in components.items() if _has_model(part)}
    dtype = _common_dtype(list(stored.values()))
    return Entry(
        name=name,
        pipeline_class=class_name,
        components=components,
        arguments=arguments,
        dtype=dtype,
        unstated=tuple(slot for slot, found in stored.items() if found != dtype),
    )


def origin_of(folder: Path) -> str:
    """Return the hub id that the pipeline in `folder` was saved from, as given in its index; "" if it gives none."""
    file = folder / INDEX
    try:
        origin = read_json(file).get("_name_or_path") if file.is_file() else ""
    except (InputError, OSError, ValueError):
        return ""
    return origin if isinstance(origin, str) else ""


def _is_component(value: Any, own: Path) -> bool:
    """Tell whether an entry of the index names a library and a class; others are arguments of the pipeline's class.

    Args:
        value: the entry.
        own: the folder that a component of this name has.

    Raises:
        InputError: if a component is described in another way.
    """
    if not isinstance(value, list):
        return False
    named = len(value) == 2 and all(isinstance(word, str) for word in value)
    if own.is_dir() and not named and value != [None, None]:
        raise InputError(f"{str(own)!r} is described as {value}, not as a library and a class")
    return named or value == [None, None]


def read_part(folder: Path, value: list[Any]) -> Part | None:
    """Return the part that an index describes, with the configuration in `folder`; None for an empty slot.

    Args:
        folder: the part's own folder.
        value: its library and its class.

    Raises:
        InputError: if it has no configuration, or one that cannot be read.
    """
    if value == [None, None]:
        return None
    part = Part(library=value[0], class_name=value[1], folder=str(folder))
    names = _TOKENIZER_FILES if part.is_text_processor else _CONFIG_FILES
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    config = {} if file is None else read_json(file)
    if part.is_text_processor:
        return replace(part, config={**config, **_of_pictures(folder)})
    if file is not None or part.class_name.endswith(_WITH_DEFAULTS):
        return replace(part, config=config, is_assumed=file is None)
    raise InputError(
        f"{str(folder)!r} has no configuration for {part.class_name}: "
        f"expected one of {', '.join(names)}"
    )


def _of_pictures(folder: Path) -> dict[str, Any]:
    """Return the configuration of a processor's image processor, as `image_processor`, if it has a file."""
    for file in (folder / name for name in _PROCESSOR_FILES):
        if file.is_file():
            content = read_json(file)
            return {"image_processor": content.get("image_processor", content)}
    return {}


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{str(file)!r} is no JSON object")
    return content


def _has_model(part: Part | None) -> bool:
    """Tell whether a component has weights: schedulers, tokenizers and processors have none."""
    return (
        part is not None
        and not part.is_text_processor
        and (Path(part.folder) / "config.json").is_file()
    )


def _stored_dtype(part: Part | None) -> str:
    """Return the dtype of a component's weights, else the one that its configuration names; "" if there is neither."""
    assert part is not None
    folder = Path(part.folder)
    if any(folder.glob("*.safetensors")):
        from profiler.pipelines.stored_weights import stored_dtype

        found = stored_dtype(folder)
    else:
        found = str(part.config.get("dtype") or part.config.get("torch_dtype"))
    return found if found in NAMES else ""


def _common_dtype(stored: list[str]) -> str:
    """Return the dtype in which to load all components."""
    dtypes = set(stored) - {""}
    return dtypes.pop() if len(dtypes) == 1 else "float32"
