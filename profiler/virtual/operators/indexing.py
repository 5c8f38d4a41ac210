"""Copies of indices: to the GPU, and in a row where several of them do not have the same layout.

Source: `make_info` and the constructor of `AdvancedIndex` in aten/src/ATen/native/TensorAdvancedIndexing.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.steps import OUTPUT, Steps
from profiler.virtual.tensor import aten


def _index(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return (*_copies(args[1]), OUTPUT)


def _index_put(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return the number that is written, as a tensor on the GPU, and copies of indices.

    Source: `_index_put_impl_` in TensorAdvancedIndexing.cpp.
    """
    indices, value = args[1:3]
    if fills_a_mask(indices, value):
        return ()
    sent = tuple(one.nbytes for one in indices if one is not None and _is_elsewhere(one))
    number = (value.nbytes,) if not value.dim() and _is_elsewhere(value) else ()
    return (*sent, *number, *_copies(indices)[len(sent) :], OUTPUT)


def _copies(indices: Sequence[torch.Tensor | None]) -> Steps:
    """Return the bytes of indices brought to the GPU, in 64 bits, and, if there are several, with the same strides."""
    given = [one for one in indices if one is not None]
    sent = [one.nbytes for one in given if _is_elsewhere(one)]
    wide = torch.broadcast_tensors(*given)
    widened = [one.dtype == torch.int32 for one in wide]
    strides = {
        torch.empty_like(one).stride() if widen else one.stride()
        for one, widen in zip(wide, widened, strict=True)
    }
    copied = [
        8 * one.numel()
        for one, widen in zip(wide, widened, strict=True)
        if widen or (len(strides) > 1 and not one.is_contiguous())
    ]
    return (*sent, *copied)


def _is_elsewhere(index: torch.Tensor) -> bool:
    """Tell whether an index is on the host; C++ makes those of a list on `meta`, the device that it sees."""
    device: torch.device = index.fake_device  # type: ignore[attr-defined]  # the one that it stands for
    return device.type != "cuda"


def fills_a_mask(indices: Sequence[torch.Tensor | None], value: torch.Tensor) -> bool:
    """Tell whether `x[mask] = number` is a `masked_fill`. Source: `canDispatchToMaskedFill` there."""
    given = [index for index in indices if index is not None]
    return not value.dim() and len(given) == 1 and is_mask(given[0])


def is_mask(index: Any) -> bool:
    """Tell whether an index selects by its values."""
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


RULES = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put,
    aten._index_put_impl_.default: _index_put,
}
