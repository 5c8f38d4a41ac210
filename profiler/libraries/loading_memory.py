"""The host memory that loading weights takes, before anything runs.

safetensors maps its file into memory, and a tensor that needs no cast stays a view of that mapping, so the
weights take only the file itself. A cast, or quantising, makes a copy beside the mapping, which goes once no tensor
refers to it; what is sent to the GPU leaves nothing behind.

Source: in diffusers 0.42.1 `_load_shard_file` and `load_model_dict_into_meta` of models/model_loading_utils.py, which
load one file after the other; in transformers 5.23.0 `_load_pretrained_model` of modeling_utils.py, which maps all
files first. A test compares both with resident sets. Pages of a mapped file are counted as resident; if memory runs
short, the system may drop them and read them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class WeightFile(NamedTuple):
    """One file of weights.

    Attributes:
        mapped_bytes: the bytes of its tensors in the file.
        copied_bytes: the host memory that the tensors which are cast or quantised on loading take afterwards.
        stays: whether a tensor is left as it was stored, so that the mapping stays.
    """

    mapped_bytes: int
    copied_bytes: int = 0
    stays: bool = True


class Loading(NamedTuple):
    """The host memory that loading takes.

    Attributes:
        peak_bytes: at the peak.
        held_bytes: once it is done.
    """

    peak_bytes: int
    held_bytes: int


def loading_of(files: Iterable[WeightFile], *, at_once: bool) -> Loading:
    """Return the host memory that loading one component takes.

    Args:
        files: in the order in which they are loaded.
        at_once: whether every file stays mapped to the end, as in transformers; diffusers releases a file whose tensors
            were all cast before it maps the next.
    """
    mapped = kept = copied = peak = 0
    for file in files:
        mapped += file.mapped_bytes
        copied += file.copied_bytes
        peak = max(peak, copied + (mapped if at_once else kept + file.mapped_bytes))
        kept += file.mapped_bytes if file.stays else 0
    return Loading(peak, kept + copied)


def one_after_the_other(components: Iterable[Loading]) -> Loading:
    """Return the host memory that loading components in this order takes, each beside those before it."""
    held = peak = 0
    for component in components:
        peak = max(peak, held + component.peak_bytes)
        held += component.held_bytes
    return Loading(peak, held)
