"""A folder of a modular pipeline, read as an `Entry`: `modular_model_index.json` and the files of each part.

A part may be in another repository, whose id the index gives: the catalogue knows it, or its configuration is fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.errors import InputError
from profiler.pipelines.catalogue import catalogue, name_of_hub_id
from profiler.pipelines.folder import entry_of, read_json, read_part
from profiler.pipelines.hub import fetch_configuration, is_hub_id
from profiler.pipelines.modular import find_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from profiler.pipelines.catalogue import Entry, Part

MODULAR_INDEX = "modular_model_index.json"


def read_modular_folder(folder: Path, *, name: str) -> Entry:
    """Return the entry that `folder` describes.

    Args:
        folder: A folder laid out as by `ModularPipeline.save_pretrained`.
        name: The user's name for it.

    Raises:
        InputError: One of its files cannot be read, or a part is in no folder that may be read.
    """
    index = read_json(folder / MODULAR_INDEX)
    names = [index.get(key) for key in ("_blocks_class_name", "_class_name")]
    named = [one for one in names if isinstance(one, str) and one]
    blocks = next((one for one in named if find_blocks(one) is not None), "")
    if not blocks:
        raise InputError(
            f"{str(folder / MODULAR_INDEX)!r} names no blocks of diffusers ({', '.join(named) or 'none'}): blocks of "
            "its own are code, which is never run"
        )
    components: dict[str, Part | None] = {}
    arguments: dict[str, Any] = {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if isinstance(value, list) and len(value) == 3 and isinstance(value[2], dict):
            components[key] = _part(folder, key, value)
        else:
            arguments[key] = value
    return entry_of(name, blocks, components, arguments)


def _part(folder: Path, slot: str, value: list[Any]) -> Part | None:
    kind, where = value[:2], value[2]
    if kind == [None, None]:
        return None
    subfolder = str(where.get("subfolder") or "")
    own = folder / subfolder
    if subfolder and own.is_dir() and own.resolve().is_relative_to(folder.resolve()):
        return read_part(own, kind)
    repository = str(where.get("pretrained_model_name_or_path") or where.get("repo") or "")
    known = catalogue().get(name_of_hub_id(repository))
    if known is not None and subfolder in known.components:
        return known.components[subfolder]
    if not is_hub_id(repository):
        raise InputError(
            f"{str(folder)!r}: its {slot} is neither in it nor in a repository of the hub ({repository!r}): "
            f"copy it into {subfolder or slot}"
        )
    fetched = fetch_configuration(repository)
    found = fetched / subfolder
    if not found.resolve().is_relative_to(fetched.resolve()):
        raise InputError(
            f"{str(folder)!r}: its {slot} is outside of its repository ({subfolder!r})"
        )
    return read_part(found, kind)
