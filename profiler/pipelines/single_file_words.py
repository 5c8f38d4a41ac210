"""What a user is to know of a pipeline around a checkpoint in one file, as sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiler.pipelines.building import with_weights
from profiler.pipelines.checkpoint_tensors import DTYPES
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from profiler.libraries.single_files import Taken
    from profiler.pipelines.catalogue import Entry
    from profiler.pipelines.checkpoint import Checkpoint


def sentences(entry: Entry, taken: Mapping[str, Taken], dtypes: Collection[str]) -> Iterator[str]:
    """Yield where the components of a pipeline are from, and how the file differs from what was made of it.

    Args:
        entry: the description of the pipeline around the file.
        taken: the components that the file holds.
        dtypes: those that they are loaded in.
    """
    checkpoint = entry.checkpoint
    assert checkpoint is not None
    file = Path(checkpoint.path).name
    rest = [slot for slot in with_weights(entry) if slot not in taken]
    others = f"; {', '.join(rest)} as there, since the file holds none" if rest else ""
    yield f"{', '.join(taken)} from {file}, configured as in {entry.configured_as}{others}"
    yield from _of_sizes(checkpoint, file, sum(found.elements for found in taken.values()))
    if not checkpoint.is_gguf:
        yield from _of_casts(checkpoint, file, set(dtypes))


def _of_sizes(checkpoint: Checkpoint, file: str, elements: int) -> Iterator[str]:
    """Yield what the file has more or less than its components.

    Args:
        checkpoint: the file.
        file: its name.
        elements: the numbers that the components took from it.
    """
    if checkpoint.elements > elements:
        among = ", its EMA weights among them" if checkpoint.averages else ""
        yield f"{file} holds {checkpoint.elements - elements:,} numbers that no component takes{among}"
    elif checkpoint.elements < elements:
        yield (
            f"diffusers adds {elements - checkpoint.elements:,} numbers to those of {file}, which it makes itself"
        )
    if checkpoint.file_bytes < checkpoint.whole_bytes:
        there, whole = format_bytes(checkpoint.file_bytes), format_bytes(checkpoint.whole_bytes)
        yield f"{file} is cut short, {there} of {whole}: sized by its header"


def _of_casts(checkpoint: Checkpoint, file: str, loaded: set[str]) -> Iterator[str]:
    """Yield which dtypes the file stores, if that is not the one that its components are loaded in."""
    stored = {
        str(DTYPES[name]).removeprefix("torch."): size
        for name, size in checkpoint.bytes_by_dtype.items()
        if DTYPES[name].is_floating_point
    }
    if stored.keys() != loaded:
        listed = ", ".join(f"{format_bytes(size)} of {name}" for name, size in stored.items())
        yield f"{file} stores {listed}: loaded in {', '.join(sorted(loaded))}, as from_single_file casts it"
