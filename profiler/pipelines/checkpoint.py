"""A checkpoint in one file, `.safetensors` or `.gguf`, as its header describes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import InputError
from profiler.pipelines.gguf_header import read_gguf_header
from profiler.pipelines.safetensors_header import StoredTensor, read_safetensors_header

_SAFETENSORS, _GGUF = ".safetensors", ".gguf"
_EMA = "model_ema."  # as LDM names them
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # that pipelines are loaded in


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The contents of one file.

    Attributes:
        path: the file.
        tensors: its tensors, in the order of its header.
        is_gguf: whether it is a GGUF file; else it is a safetensors file.
        file_bytes: its size.
        whole_bytes: the size that its header promises.
    """

    path: str
    tensors: tuple[StoredTensor, ...]
    is_gguf: bool
    file_bytes: int
    whole_bytes: int

    @property
    def elements(self) -> int:
        """The numbers that it holds."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def averages(self) -> tuple[StoredTensor, ...]:
        """Its exponential moving averages of other weights, of which diffusers reads none."""
        return tuple(tensor for tensor in self.tensors if tensor.name.startswith(_EMA))

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """The bytes of its tensors by the file's word for their dtype, the most first."""
        found: Counter[str] = Counter()
        for tensor in self.tensors:
            found[tensor.dtype] += tensor.nbytes
        return dict(found.most_common())

    @property
    def dtype(self) -> str:
        """The dtype of most of its bytes; "" for a GGUF file, or if pipelines are not loaded in that."""
        most = next(iter(self.bytes_by_dtype), "")
        return "" if self.is_gguf else _DTYPES.get(most, "")


def is_checkpoint(model: str) -> bool:
    """Tell whether `model` is the name of a checkpoint in one file, whether or not there is such a file."""
    return Path(model).suffix in (_SAFETENSORS, _GGUF, *_PICKLED) and not Path(model).is_dir()


def is_saved_profile(model: str) -> bool:
    """Tell whether `model` is a file that can only be a saved profile, in the place of a model."""
    return Path(model).is_file() and not is_checkpoint(model)


def read_checkpoint(path: str) -> Checkpoint:
    """Return what a file's header describes.

    Raises:
        InputError: if there is no such file, its header cannot be read, or its kind has none.
    """
    file = Path(path)
    if file.suffix in _PICKLED:
        raise InputError(
            f"{path!r} is pickled, and tells nothing without running what is in it: save it as safetensors"
        )
    if not file.is_file():
        raise InputError(f"there is no file {path!r}: download it first; its header is enough")
    is_gguf = file.suffix == _GGUF
    header = (read_gguf_header if is_gguf else read_safetensors_header)(file)
    if not header.tensors:
        raise InputError(f"{path!r} holds no tensors")
    return Checkpoint(
        path=path,
        tensors=header.tensors,
        is_gguf=is_gguf,
        file_bytes=file.stat().st_size,
        whole_bytes=header.whole_bytes,
    )
