"""The header of a GGUF file: which tensors it holds and how each is quantised, without reading one of them.

Source: the format's description, docs/gguf.md of ggml-org/ggml, versions 2 and 3, from knowledge: a magic word, a
version, the counts of tensors and of metadata, the metadata as typed values, then name, dimensions (fastest first),
type and offset of each tensor, and after padding the data. The package `gguf` says what a block of each type takes.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from profiler.errors import InputError
from profiler.pipelines.safetensors_header import MOST_TENSORS, Header, StoredTensor

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_LONGEST_HEADER_BYTES = 1 << 25
_LONGEST_NAME_BYTES = 1 << 16
_MOST_VALUES = 100_000  # of metadata; published files have a few dozen
_MOST_DIMENSIONS = 4  # GGML's own limit
_STRING, _ARRAY, _U32 = 8, 9, 4
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT, _ALIGNMENT_KEY = 32, "general.alignment"
_MOST_BYTES = 1 << 62


def read_gguf_header(file: Path) -> Header:
    """Return the header of a GGUF file.

    Raises:
        InputError: if it has none, or one that no such file can have, or the package `gguf` is not installed, which
            diffusers needs to load it.
    """
    if find_spec("gguf") is None:
        raise InputError(f"{str(file)!r} is read by gguf, which is not installed: pip install gguf")
    try:
        with file.open("rb") as stream:
            return _read(_Reader(stream))
    except (OSError, ValueError, struct.error) as error:
        why = "its header ends too early" if isinstance(error, struct.error) else str(error)
        raise InputError(f"{str(file)!r} is no GGUF file, or cut short: {why}") from error


class _Reader:
    """The values of a header, one after the other, of no more bytes than a header may have."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.at = 0

    def take(self, count: int) -> bytes:
        self.at += count
        if self.at > _LONGEST_HEADER_BYTES:
            raise ValueError("its header is too long")
        found = self._stream.read(count)
        if len(found) < count:
            raise ValueError("its header ends too early")
        return found

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self) -> str:
        count = self.u64()
        if count > _LONGEST_NAME_BYTES:
            raise ValueError("a name in it is too long")
        return self.take(count).decode("utf-8")

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over one value of metadata."""
        if kind in _SCALAR_BYTES:
            self.take(_SCALAR_BYTES[kind])
        elif kind == _STRING:
            self.take(self.u64())
        elif kind == _ARRAY and depth < 2:
            inner, count = self.u32(), self.u64()
            if inner in _SCALAR_BYTES:
                self.take(count * _SCALAR_BYTES[inner])
                return
            for _ in range(
                count
            ):  # each takes eight bytes at least, so the header's length bounds it
                self.skip(inner, depth + 1)
        else:
            raise ValueError("its metadata has a value of an unknown type")


def _read(reader: _Reader) -> Header:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = reader.u32()
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}, and 2 and 3 can be read")
    tensor_count, value_count = reader.u64(), reader.u64()
    if tensor_count > MOST_TENSORS or value_count > _MOST_VALUES:
        raise ValueError(f"it names more than {MOST_TENSORS} tensors or values")
    alignment = _alignment(reader, value_count)
    found = [_tensor(reader) for _ in range(tensor_count)]
    if len({tensor.name for tensor, _ in found}) < len(found):
        raise ValueError("it names a tensor twice")
    begins = -(-reader.at // alignment) * alignment
    ends = max((offset + tensor.nbytes for tensor, offset in found), default=0)
    return Header(tuple(tensor for tensor, _ in found), begins + ends)


def _alignment(reader: _Reader, value_count: int) -> int:
    alignment = _ALIGNMENT
    for _ in range(value_count):
        key, kind = reader.text(), reader.u32()
        if key == _ALIGNMENT_KEY and kind == _U32:
            alignment = reader.u32() or _ALIGNMENT
        else:
            reader.skip(kind)
    return alignment


def _tensor(reader: _Reader) -> tuple[StoredTensor, int]:
    """Return the next tensor and its offset in the data."""
    import gguf

    name = reader.text()
    dimensions = reader.u32()
    if dimensions > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
    shape = tuple(reversed([reader.u64() for _ in range(dimensions)]))
    number, offset = reader.u32(), reader.u64()
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        raise ValueError(f"a tensor has the type {number}, which gguf does not know") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if (shape[-1] if shape else 1) % block:
        raise ValueError(f"the rows of a tensor hold no whole blocks of {kind.name}")
    nbytes = prod(shape) // block * block_bytes
    if nbytes + offset > _MOST_BYTES:
        raise ValueError("a tensor is larger than any file")
    return StoredTensor(name, kind.name, shape, nbytes), offset
