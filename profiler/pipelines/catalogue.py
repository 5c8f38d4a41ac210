"""The models that can be built by name: facts from `profiler/data/catalogue/`, without torch.

An `Entry` describes any pipeline without weights, whatever the source of its facts: the catalogue here,
or a diffusers folder (`profiler/pipelines/folder.py`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from profiler.errors import InputError

if TYPE_CHECKING:
    from profiler.pipelines.checkpoint import Checkpoint

Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component: its class, and the configuration that it is built from."""

    library: str  # "diffusers", "transformers", or the name of a module of `diffusers.pipelines`
    class_name: str
    config: Table = field(default_factory=dict)  # hyperparameters; class defaults may be left out
    folder: str = ""  # where its own files are; "" for a part of the catalogue
    is_assumed: bool = False  # whether class defaults stand for a file that is missing

    @property
    def is_text_processor(self) -> bool:
        """True if it turns text into token ids: a tokenizer, or a processor that holds one."""
        return self.class_name.endswith(("Tokenizer", "TokenizerFast", "TokenizersBackend")) or (
            self.class_name.endswith("Processor") and not self.class_name.endswith("ImageProcessor")
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A pipeline that can be built from configuration alone."""

    name: str  # catalogue name, folder, hub id or file
    pipeline_class: str
    components: Mapping[str, Part | None]  # None: the pipeline has the slot, but it is empty
    further: Mapping[str, tuple[Part, ...]] = field(
        default_factory=dict
    )  # more parts of a slot that takes a list: several ControlNets
    arguments: Table = field(default_factory=dict)  # further arguments of the pipeline class
    dtype: str = "float32"  # the dtype to load in if the caller gives none
    dtypes: Mapping[str, str] = field(default_factory=dict)  # of components loaded in another dtype
    unstated: tuple[str, ...] = ()  # components whose files do not state `dtype`
    about: str = ""
    hub: str = ""  # id of the repository on the Hugging Face hub that the facts describe
    # Call arguments besides the prompt that the pipeline requires, name to kind: "image" is
    # an RGB image of the output's size, "mask" a grey one, "text" may be empty, "lyrics" not.
    required_call: Mapping[str, str] = field(default_factory=dict)
    call: Table = field(
        default_factory=dict
    )  # arguments of a distilled model, if not its class's defaults
    vae_tiling: bool = False  # whether its VAE decodes only in tiles, and must be set to
    checkpoint: Checkpoint | None = None  # the single file that holds weights of some components
    configured_as: str = ""  # of such a file: the pipeline whose configuration it has


def catalogue() -> dict[str, Entry]:
    """Return all entries by name, a family after the other."""
    return dict(_entries())


def find_entry(name: str) -> Entry:
    """Return the entry called `name`.

    Raises:
        InputError: The catalogue has no such entry; the message names close matches.
    """
    entries = _entries()
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name.lower(), entries, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"`vram list models` names all {len(entries)}"
    )
    raise InputError(
        f"unknown model {name!r}: {hint} (or give a local diffusers folder, or a hub id: org/name)"
    )


def part_named(name: str) -> Part:
    """Return the part of the catalogue called `name`, which must exist."""
    return _part(name)


def name_of_hub_id(hub_id: str) -> str:
    """Return the name under which the catalogue knows the hub's `hub_id`, or ""."""
    return next((name for name, entry in _entries().items() if entry.hub == hub_id), "")


def tokenizer_facts(name: str) -> Table | None:
    """Return the facts of the tokenizer family called `name`, or of a class called so; None if it is not known."""
    families: Mapping[str, Table] = _tables()["tokenizers"]
    by_class = next((one for one in families.values() if name in one.get("classes", ())), None)
    facts = families.get(name, by_class)
    return facts if facts is None else {**families.get(facts.get("like", ""), {}), **facts}


@cache
def _tables() -> Table:
    """Return the tables of all files, as if they were one file."""
    folder = files("profiler") / "data" / "catalogue"
    tables: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        for kind, named in tomllib.loads(file.read_text("utf-8")).items():
            tables.setdefault(kind, {}).update(named)
    return tables


@cache
def _entries() -> dict[str, Entry]:
    return {name: _entry(name, table) for name, table in _tables()["models"].items()}


def _entry(name: str, table: Table) -> Entry:
    return Entry(
        name=name,
        pipeline_class=table["pipeline"],
        components={slot: _part(part) for slot, part in table["components"].items()},
        arguments=table.get("arguments", {}),
        dtype=table["dtype"],
        dtypes=table.get("dtypes", {}),
        about=table["about"],
        hub=table["hub"],
        required_call=table.get("required", {}),
        call=table.get("call", {}),
        vae_tiling=table.get("vae_tiling", False),
    )


def _part(name: str) -> Part:
    table = _tables()["parts"][name]
    config = _with_none(table.get("config", {}))
    if "like" in table:
        base = _part(table["like"])
        return replace(base, config={**base.config, **config})
    library, _, class_name = table["class"].rpartition(".")
    return Part(library=library, class_name=class_name, config=config)


def _with_none(value: Any) -> Any:
    """Return a value with None for each "null", which TOML does not have."""
    if isinstance(value, dict):
        return {name: _with_none(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_none(item) for item in value]
    return None if value == "null" else value
