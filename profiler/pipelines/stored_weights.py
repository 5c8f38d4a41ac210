"""Weights as they lie in a diffusers folder: read from the headers of safetensors files, never from their bodies.

Source: the format's description in the README of huggingface/safetensors, from knowledge: eight bytes of length, then
JSON that gives each tensor its dtype and its span in the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from profiler.errors import InputError
from profiler.loading_memory import Loading, WeightFile, loading_of, one_after_the_other

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}  # what a cast on loading starts from; other dtypes stay as they are
_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_LONGEST_HEADER_BYTES = 100_000_000  # what safetensors itself reads at most; from knowledge


class _Tensor(NamedTuple):
    """One tensor of a file: its dtype by safetensors' name, and what it takes there."""

    name: str
    dtype: str
    nbytes: int


def pipeline_loading(folder: str, modules: dict[str, nn.Module]) -> Loading:
    """Return what loading a pipeline's weights with `from_pretrained` takes of the host.

    A component whose files are not there is taken to be stored in the dtypes that it is loaded in.

    Args:
        folder: where the components' folders are; any other text where there is none.
        modules: the components by name, in the order in which they are loaded, with the dtypes that they end up in.

    Raises:
        InputError: if a file of weights cannot be read.
    """
    return one_after_the_other(
        _component_loading(Path(folder) / name, module) for name, module in modules.items()
    )


def _component_loading(folder: Path, module: nn.Module) -> Loading:
    dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    files = [_weight_file(_tensors_in(file), dtypes) for file in _weight_files(folder)]
    if not files:
        tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        files = [WeightFile(size)]
    return loading_of(files, at_once=not type(module).__module__.startswith("diffusers"))


def _weight_files(folder: Path) -> list[Path]:
    for name in _NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise InputError(f"{str(index)!r} cannot be read: {error}") from error
            return sorted(file for name in names if (file := folder / str(name)).is_file())
        if (folder / name).is_file():
            return [folder / name]
    return []


def _tensors_in(file: Path) -> list[_Tensor]:
    try:
        with file.open("rb") as stream:
            length = min(int.from_bytes(stream.read(8), "little"), _LONGEST_HEADER_BYTES)
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return [
            _Tensor(
                name, str(entry["dtype"]), int(entry["data_offsets"][1] - entry["data_offsets"][0])
            )
            for name, entry in header.items()
        ]
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{str(file)!r} is no safetensors file, or cut short") from error


def _weight_file(tensors: list[_Tensor], dtypes: dict[str, torch.dtype]) -> WeightFile:
    """Return what loading does with a file; a tensor that goes by another name gets the dtype of most."""
    usual = max(set(dtypes.values()), key=list(dtypes.values()).count, default=torch.float32)
    mapped = cast = 0
    stays = False
    for tensor in tensors:
        stored, wanted = _DTYPES.get(tensor.dtype), dtypes.get(tensor.name, usual)
        mapped += tensor.nbytes
        if stored is None or stored == wanted:
            stays = True
        else:
            cast += tensor.nbytes // stored.itemsize * wanted.itemsize
    return WeightFile(mapped, cast, stays)
