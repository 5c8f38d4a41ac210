"""A pipeline around a checkpoint in one file: what it is a checkpoint of, and the components whose weights it holds.

The configuration comes from the catalogue, where diffusers' `from_single_file` would fetch it from the hub, or from
what the user names. Components that the file does not hold are those of the configuration, as `from_pretrained` with
the loaded component passed in has them.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from profiler.errors import InputError
from profiler.libraries.single_files import (
    AbsentError,
    Taken,
    is_loadable,
    load_component,
    recognise,
)
from profiler.pipelines.building import find_class, with_weights
from profiler.pipelines.catalogue import Entry, Part, find_entry, name_of_hub_id
from profiler.pipelines.checkpoint_tensors import tensors_of
from profiler.pipelines.loading_gauge import Gauge
from profiler.pipelines.random_weights import fill_at_random
from profiler.pipelines.single_file_words import sentences
from profiler.virtual.torch_api.functions import active_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from profiler.libraries.loading_memory import Loading
    from profiler.pipelines.checkpoint import Checkpoint

# Repositories that diffusers names, and others with the same configuration; from their model cards, from knowledge.
_SAME = {"diffusers/LTX-Video-0.9.0": "Lightricks/LTX-Video"}
_NOT_LOADED = ("safety_checker",)  # `SINGLE_FILE_OPTIONAL_COMPONENTS` of loaders/single_file.py
# The fraction of a file's numbers that no component need take: schedules and positions are far fewer.
_LEFT_OVER = 0.01
_GIVE = (
    "give the pipeline that it belongs to with --config (config= in Python), as a name of the catalogue, a diffusers "
    "folder or a hub id"
)
_SINGLE_FILE = "_vram_single_file"


class FromFile(NamedTuple):
    """The components of a pipeline that a file holds.

    Attributes:
        modules: those components by name.
        loading: the host memory that loading them takes; None outside of a virtual GPU.
        assumptions: what is to be known of them, as sentences.
    """

    modules: Mapping[str, nn.Module]
    loading: Loading | None
    assumptions: tuple[str, ...]


NOTHING = FromFile({}, None, ())
"""What a pipeline without such a file has from it."""


def entry_of(checkpoint: Checkpoint, configured: Entry | None) -> Entry:
    """Return the description of the pipeline around a checkpoint.

    Args:
        checkpoint: the file.
        configured: the pipeline that the user names for its configuration; None for the one that diffusers recognises.

    Raises:
        InputError: if diffusers does not recognise the model, or the catalogue does not know it.
    """
    base = configured or _recognised(checkpoint)
    if checkpoint.dtype and set(base.unstated) >= set(
        with_weights(base)
    ):  # what no file tells is loaded beside it, and likewise
        base = replace(base, dtype=checkpoint.dtype)
    components = {name: part for name, part in base.components.items() if name not in _NOT_LOADED}
    return replace(
        base,
        name=checkpoint.path,
        configured_as=base.name,
        components={**dict.fromkeys(base.components), **components},
        checkpoint=checkpoint,
    )


def load_from_file(
    entry: Entry, dtypes: Mapping[str, str], *, random_weights: bool = False
) -> FromFile:
    """Return the components that the entry's file holds, loaded as `from_single_file` loads them.

    Args:
        entry: a description that `entry_of` returned.
        dtypes: the requested dtypes, by component.
        random_weights: whether their weights are real, and random.

    Raises:
        InputError: if it holds none, or one that does not fit its configuration.
    """
    checkpoint = entry.checkpoint
    assert checkpoint is not None
    gpu = active_gpu()
    if checkpoint.is_gguf and gpu is None:
        raise InputError(
            "a quantised component can be built on a virtual GPU only: do it inside `with VirtualGPU(...)`"
        )
    gauge = Gauge(gpu)
    tensors = tensors_of(checkpoint, on_meta=gpu is None and not random_weights)
    taken: dict[str, Taken] = {}
    loaded: dict[str, str] = {}
    absent: dict[str, AbsentError] = {}
    with tempfile.TemporaryDirectory() as folder:
        for slot, part, cls in _candidates(entry, tensors):
            if _is_of_diffusers(cls) and any(type(one.module) is cls for one in taken.values()):
                continue  # one file holds one of Wan 2.2's two experts
            _write_configuration(Path(folder) / slot, cls, part)
            dtype = dtypes.get(slot) or _dtype(entry, slot)
            gauge.start()
            try:
                found = _load(entry, slot, cls, tensors, Path(folder), dtype)
            except AbsentError as error:
                # Without its traceback, which would keep what it had converted.
                absent[slot] = AbsentError(str(error), is_sure=error.is_sure)
                continue
            gauge.stop()
            taken[slot], loaded[slot] = found, dtype
            if random_weights:
                fill_at_random(found.module)
    _check_found(entry, taken, absent)
    modules = {slot: found.module for slot, found in taken.items()}
    loading = None if gpu is None else gauge.loading(checkpoint, tensors, modules)
    return FromFile(modules, loading, tuple(sentences(entry, taken, loaded.values())))


def _check_found(
    entry: Entry, taken: Mapping[str, Taken], absent: Mapping[str, AbsentError]
) -> None:
    """Raise InputError if nothing was found, or so little that what diffusers could not load must be in the file.

    A UNet has many names of a ControlNet's, and conversions stumble over names of other components.
    """
    checkpoint = entry.checkpoint
    assert checkpoint is not None
    left = checkpoint.elements - sum(found.elements for found in taken.values())
    left -= sum(one.elements for one in checkpoint.averages)
    unsure = {slot: error for slot, error in absent.items() if not error.is_sure}
    if taken and (not unsure or left < _LEFT_OVER * checkpoint.elements):
        return
    reasons = "; ".join(f"{slot}: {error}" for slot, error in (unsure or absent).items())
    what = f"{left:,} numbers that diffusers cannot" if taken else "nothing that diffusers can"
    why = f" ({reasons})" if reasons else ""
    raise InputError(
        f"{checkpoint.path!r} holds {what} load as {entry.configured_as}{why}: {_GIVE}"
    )


def keep(pipe: Any, found: FromFile) -> None:
    """Remember on `pipe` what came from a file."""
    if found.modules:
        setattr(pipe, _SINGLE_FILE, (tuple(found.modules), found.loading))


def loaded_from_file(pipe: Any) -> tuple[tuple[str, ...], Loading | None]:
    """Return the components of `pipe` that came from one file, and the host memory that loading them took."""
    found: tuple[tuple[str, ...], Loading | None] = vars(pipe).get(_SINGLE_FILE, ((), None))
    return found


# -- what the file is


def _recognised(checkpoint: Checkpoint) -> Entry:
    """Return the catalogue's entry of the model that diffusers recognises."""
    found = recognise(tensors_of(checkpoint, on_meta=True))  # packed ones in bytes, as it sees them
    if found is None:
        if any("lora_" in tensor.name for tensor in checkpoint.tensors):
            raise InputError(
                f"{checkpoint.path!r} holds a LoRA, and no model: load it into a pipeline, and profile that"
            )
        raise InputError(f"diffusers does not recognise the model in {checkpoint.path!r}: {_GIVE}")
    name = name_of_hub_id(_SAME.get(found.hub_id, found.hub_id))
    if not name:
        raise InputError(
            f"{checkpoint.path!r} is of the kind {found.kind} ({found.hub_id}), whose configuration the catalogue does "
            f"not have: {_GIVE}"
        )
    return find_entry(name)


# -- its components


def _candidates(
    entry: Entry, tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, Part, type[nn.Module]]]:
    """Yield the components that diffusers would look for in the file, in the order in which it loads them."""
    assert entry.checkpoint is not None
    for slot in sorted(with_weights(entry)):
        part = entry.components[slot]
        assert part is not None
        cls = find_class(part.library, part.class_name)
        if (_is_of_diffusers(cls) or not entry.checkpoint.is_gguf) and is_loadable(cls, tensors):
            yield slot, part, cls


def _is_of_diffusers(cls: type[nn.Module]) -> bool:
    return cls.__module__.startswith("diffusers.")


def _write_configuration(folder: Path, cls: type[nn.Module], part: Part) -> None:
    """Write a `config.json` that states all of a class's arguments, as published ones do, and conversions expect."""
    folder.mkdir()
    defaults = inspect.signature(cls).parameters.items() if _is_of_diffusers(cls) else ()
    config = {name: one.default for name, one in defaults if one.default is not one.empty}
    config |= {**part.config, "_class_name": cls.__name__}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _load(
    entry: Entry,
    slot: str,
    cls: type[nn.Module],
    tensors: Mapping[str, torch.Tensor],
    folder: Path,
    dtype: str,
) -> Taken:
    assert entry.checkpoint is not None
    try:
        return load_component(
            cls,
            tensors,
            folder=folder,
            slot=slot,
            dtype=getattr(torch, dtype),
            gguf=entry.checkpoint.is_gguf,
        )
    except AbsentError:
        raise
    except Exception as error:
        reason = str(error).partition(". If you want")[0].splitlines() or [type(error).__name__]
        raise InputError(
            f"{entry.name!r} does not fit the {slot} of {entry.configured_as}: {reason[0]}: {_GIVE}"
        ) from error


def _dtype(entry: Entry, slot: str) -> str:
    """Return the dtype that a component of the file is loaded in if none is requested."""
    assert entry.checkpoint is not None
    return entry.checkpoint.dtype or entry.dtypes.get(slot, entry.dtype)
