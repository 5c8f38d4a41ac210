"""Headers of checkpoints: those that no such file can have end in one sentence, and quickly."""

from __future__ import annotations

import json
import random
import struct

import pytest
import tiny_files
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from profiler.errors import InputError
from profiler.pipelines.checkpoint import read_checkpoint


def safetensors(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


SAFETENSORS = {
    "nothing": b"",
    "a length of everything": b"\xff" * 16,
    "no JSON": safetensors(b"hello"),
    "brackets": safetensors(b"[" * 100_000),
    "a list": safetensors([1]),
    "a number of its own": safetensors({"a": 3}),
    "no shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "a shape of words": safetensors(one(shape=["x"])),
    "a shape that is true": safetensors(one(shape=[True, 2])),
    "a negative size": safetensors(one(shape=[-2])),
    "a size too large for its bytes": safetensors(one(shape=[1 << 60])),
    "a hundred dimensions": safetensors(one(shape=[1] * 99 + [2])),
    "bytes from behind": safetensors(one(data_offsets=[8, 0])),
    "bytes in fractions": safetensors(one(data_offsets=[0, 8.0])),
    "a hole": safetensors(one(data_offsets=[8, 16])),
    "two in one place": safetensors({**one(), "b": one()["a"]}),
    "a dtype that is none": safetensors(one(dtype=7)),
    "a hundred thousand": safetensors(
        {str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_001)}
    ),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_a_strange_safetensors_header_is_refused(tmp_path, kind):
    file = tmp_path / "it.safetensors"
    file.write_bytes(SAFETENSORS[kind])
    with pytest.raises(InputError, match=r"is no safetensors file, or cut short") as caught:
        read_checkpoint(str(file))
    assert len(str(caught.value)) < len(str(file)) + 120


def gguf(*parts, tensors=0, values=0, version=3):
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, values) + b"".join(parts)


def text(word):
    return struct.pack("<Q", len(word)) + word


def tensor(name=b"a", dimensions=(32,), kind=0, offset=0):
    sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return (
        text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)
    )


HUGE = (1 << 63,)
GGUF = {
    "nothing": b"",
    "another magic": b"GGML" + bytes(60),
    "the other byte order": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
    "version 1": gguf(version=1),
    "too many tensors": gguf(tensors=1 << 60),
    "too many values": gguf(values=1 << 60),
    "a tensor less": gguf(tensor(), tensors=2),
    "a name without end": gguf(struct.pack("<Q", 1 << 62), tensors=1),
    "a name that is no text": gguf(tensor(b"\xff\xfe"), tensors=1),
    "one name twice": gguf(tensor(), tensor(), tensors=2),
    "nine dimensions": gguf(tensor(dimensions=(1,) * 9), tensors=1),
    "an unknown type": gguf(tensor(kind=4000), tensors=1),
    "half a block": gguf(tensor(dimensions=(100,), kind=12), tensors=1),
    "no file is as large": gguf(tensor(dimensions=HUGE * 4), tensors=1),
    "a value of an unknown type": gguf(text(b"k") + struct.pack("<I", 77), values=1),
    "a value longer than the file": gguf(text(b"k") + struct.pack("<IQ", 8, 1 << 62), values=1),
    "arrays in arrays": gguf(
        text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50, values=1
    ),
    "a long array of nothing": gguf(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 62), values=1),
}


@pytest.mark.parametrize("kind", GGUF)
def test_a_strange_gguf_header_is_refused(tmp_path, kind):
    pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = tmp_path / "it.gguf"
    file.write_bytes(GGUF[kind])
    with pytest.raises(InputError, match=r"is no GGUF file, or cut short: ") as caught:
        read_checkpoint(str(file))
    assert len(str(caught.value)) < len(str(file)) + 120


def test_a_header_is_read_as_the_libraries_read_it(tmp_path):
    tensors = {
        "a": torch.zeros(3, 5),
        "b": torch.zeros(2, dtype=torch.bfloat16),
        "c": torch.zeros((), dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "it.safetensors", metadata={"format": "pt"})
    found = read_checkpoint(str(tmp_path / "it.safetensors"))
    assert found.whole_bytes == found.file_bytes
    assert {one.name: (one.dtype, one.shape, one.nbytes) for one in found.tensors} == {
        "a": ("F32", (3, 5), 60),
        "b": ("BF16", (2,), 4),
        "c": ("I64", (), 8),
    }


def test_a_gguf_header_is_read_as_the_library_reads_it(tmp_path):
    library = pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
    file = tiny_files.flux_in_gguf(
        tmp_path, lambda name, tensor: "Q4_K" if tensor.shape[-1] % 256 == 0 else "F16"
    )
    found = read_checkpoint(str(file.path))
    real = library.GGUFReader(file.path)
    assert [(one.name, one.dtype, one.shape[::-1], one.nbytes) for one in found.tensors] == [
        (one.name, one.tensor_type.name, tuple(one.shape.tolist()), one.n_bytes)
        for one in real.tensors
    ]
    assert found.whole_bytes - found.file_bytes < 32  # the last one's padding


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_no_damage_to_a_header_ends_in_anything_but_a_sentence(tmp_path, suffix):
    """Whatever is read all the same, the library that diffusers uses takes it for one, too."""
    if suffix == "gguf":
        pytest.importorskip("gguf", reason="gguf, which reads such files, is not installed")
        whole = tiny_files.flux_in_gguf(tmp_path, lambda name, tensor: "F16").path.read_bytes()
    else:
        whole = tiny_files.stable_diffusion(tmp_path).path.read_bytes()
    head, chance = whole[: 30_000 if suffix == "safetensors" else 6000], random.Random(0)
    file = tmp_path / f"damaged.{suffix}"
    for _ in range(200):
        damaged = bytearray(whole if suffix == "safetensors" else head)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(min(len(head), 4000))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            found = read_checkpoint(str(file))
        except InputError:
            continue
        assert all(one.nbytes >= 0 and one.elements >= 0 for one in found.tensors)
        if suffix == "safetensors" and found.file_bytes == found.whole_bytes:
            assert "unknown variant" in (why := why_not_opened(file)) or not why


def why_not_opened(file):
    """Return the error of safetensors; "" if it opens the file."""
    try:
        with safe_open(file, "pt"):
            return ""
    except SafetensorError as error:
        return str(error)
