"""Tensors in the shapes and dtypes of a checkpoint, without its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from profiler.errors import InputError

if TYPE_CHECKING:
    from profiler.pipelines.checkpoint import Checkpoint
    from profiler.pipelines.safetensors_header import StoredTensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PLAIN_IN_GGUF = ("F32", "F16")  # all else diffusers keeps packed: `load_gguf_checkpoint`


def tensors_of(checkpoint: Checkpoint, *, on_meta: bool) -> dict[str, torch.Tensor]:
    """Return tensors of the shapes and dtypes in a checkpoint, without its data.

    Args:
        checkpoint: the file.
        on_meta: whether they are on `meta`; else they are where new tensors are.

    Raises:
        InputError: if it has a dtype that PyTorch has not.
    """
    make = _in_gguf if checkpoint.is_gguf else _in_safetensors
    with torch.device("meta") if on_meta else torch.device("cpu"):
        return {one.name: make(checkpoint.path, one) for one in checkpoint.tensors}


def _in_safetensors(path: str, stored: StoredTensor) -> torch.Tensor:
    dtype = DTYPES.get(stored.dtype)
    if dtype is None:
        raise InputError(
            f"{path!r} stores {stored.name!r} as {stored.dtype}, which PyTorch's safetensors does not load"
        )
    return torch.empty(stored.shape, dtype=dtype)


def _in_gguf(path: str, stored: StoredTensor) -> torch.Tensor:
    if stored.dtype in _PLAIN_IN_GGUF:
        return torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    import gguf
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter

    kind = gguf.GGMLQuantizationType[stored.dtype]
    if kind not in SUPPORTED_GGUF_QUANT_TYPES:
        raise InputError(
            f"{path!r} stores {stored.name!r} as {stored.dtype}, which diffusers does not load: it loads "
            f"{', '.join(one.name for one in SUPPORTED_GGUF_QUANT_TYPES)}"
        )
    shape = gguf.quant_shape_to_byte_shape(stored.shape, kind)
    return GGUFParameter(torch.empty(shape, dtype=torch.uint8), quant_type=kind)
