"""ControlNets beside a model: the class of its pipeline that has them, and a configuration from the catalogue."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers

from profiler.errors import InputError
from profiler.pipelines.catalogue import catalogue, find_entry
from profiler.pipelines.folder import read_json, read_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiler.pipelines.catalogue import Entry, Part

CONTROLNET = "controlnet"


def with_controlnets(entry: Entry, names: Sequence[str]) -> Entry:
    """Return the entry of a model's pipeline with ControlNets.

    Args:
        entry: The model.
        names: Folders of ControlNets, catalogue models that have one, or "" for the first one of this kind of pipeline.

    Raises:
        InputError: if diffusers has no such pipeline, or the catalogue no such ControlNet.
    """
    wanted = entry.pipeline_class
    if CONTROLNET not in wanted.lower():
        wanted = re.sub(r"(Img2Img|Inpaint)?Pipeline$", r"ControlNet\1Pipeline", wanted)
    if getattr(diffusers, wanted, None) is None:
        raise InputError(f"diffusers has no {wanted}: {entry.name!r} takes no ControlNet")
    first, *others = (_part(wanted, name) for name in names)
    return replace(
        entry,
        pipeline_class=wanted,
        components={**entry.components, CONTROLNET: first},
        further={CONTROLNET: tuple(others)},
    )


def _part(pipeline_class: str, name: str) -> Part:
    """Return the ControlNet in a folder or of a catalogue model, or the first one for a class of pipelines."""
    if Path(name).is_dir() and name:
        kind = read_json(Path(name) / "config.json").get("_class_name")
        part = read_part(Path(name), ["diffusers", str(kind)])
        assert part is not None
        return part
    if name:
        part = find_entry(name).components.get(CONTROLNET)
        if part is None:
            raise InputError(f"{name!r} has no ControlNet: {_having(pipeline_class)}")
        return part
    entries = catalogue().values()
    found = (
        one.components.get(CONTROLNET) for one in entries if one.pipeline_class == pipeline_class
    )
    part = next((one for one in found if one is not None), None)
    if part is None:
        raise InputError(f"the catalogue has no ControlNet for {pipeline_class}: {_having('')}")
    return part


def _having(pipeline_class: str) -> str:
    names = [
        one.name
        for one in catalogue().values()
        if one.components.get(CONTROLNET) and pipeline_class in ("", one.pipeline_class)
    ]
    return f"{', '.join(names)} have one" if names else "no model of it has one"
