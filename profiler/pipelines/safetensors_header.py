"""The header of a safetensors file: which tensors it holds, without reading one of them.

Source: the format's description in the README of huggingface/safetensors, from knowledge: eight bytes of length, then
JSON that gives each tensor its dtype, its shape and its span in the data that follows, whose spans leave no hole.
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from profiler.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
"""The bytes of a number, by the name of its dtype."""

MOST_TENSORS = 100_000  # the largest checkpoints of diffusers' models hold a few thousand
_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # the most that safetensors itself reads; from knowledge
_MOST_DIMENSIONS = 16


class StoredTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        name: its name there.
        dtype: the file's word for its dtype, or for its type of quantisation: `BF16`, `Q4_K`.
        shape: the sizes of its dimensions, in torch's order, before any quantisation.
        nbytes: the bytes that it takes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        """The numbers that it stands for."""
        return prod(self.shape)


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        tensors: in the order of the header.
        whole_bytes: the size of the file, if all of it is there.
    """

    tensors: tuple[StoredTensor, ...]
    whole_bytes: int


def read_safetensors_header(file: Path) -> Header:
    """Return the header of a safetensors file.

    Raises:
        InputError: if it has none, or one that no such file can have.
    """
    try:
        with file.open("rb") as stream:
            return _read(stream)
    except (
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        why = f": {error}" if type(error) is ValueError else ""
        raise InputError(f"{str(file)!r} is no safetensors file, or cut short{why}") from error


def _read(stream: BinaryIO) -> Header:
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    if length > _LONGEST_HEADER_BYTES:
        raise ValueError("its header would be longer than safetensors reads")
    content: dict[str, Any] = json.loads(stream.read(length))
    content.pop("__metadata__", None)
    if len(content) > MOST_TENSORS:
        raise ValueError(f"it names more than {MOST_TENSORS} tensors")
    spans = {name: _span(entry) for name, entry in content.items()}
    _check_no_holes(list(spans.values()))
    tensors = tuple(_tensor(name, content[name], *span) for name, span in spans.items())
    ends = max((end for _, end in spans.values()), default=0)
    return Header(tensors, _LENGTH_BYTES + length + ends)


def _span(entry: Any) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        raise TypeError
    return begin, end


def _check_no_holes(spans: list[tuple[int, int]]) -> None:
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("its tensors overlap, or leave holes")
        at = end


def _tensor(name: str, entry: Any, begin: int, end: int) -> StoredTensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str) or any(type(size) is not int or size < 0 for size in shape):
        raise TypeError
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
    item_bytes = ITEM_BYTES.get(dtype)
    if item_bytes is not None and prod(shape) * item_bytes != end - begin:
        raise ValueError("the shape of a tensor does not fit the bytes that it takes")
    return StoredTensor(name, dtype, shape, end - begin)
