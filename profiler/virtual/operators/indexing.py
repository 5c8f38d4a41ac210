"""Copies of indices: to the GPU, and in a row where several of them do not have the same layout.

Source: `make_info` and the constructor of `AdvancedIndex` in aten/src/ATen/native/TensorAdvancedIndexing.cpp.
"""

from __future__ import annotations

from typing import Any

import torch

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.steps import OUTPUT, Steps
from profiler.virtual.tensor import aten


def _index(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return (*_copies(args[1]), OUTPUT)


def _copies(indices: Any) -> Steps:
    given = [one for one in indices if one is not None]
    sent = tuple(one.nbytes for one in given if _is_elsewhere(one))
    wide = torch.broadcast_tensors(*given)
    if len(given) < 2 or all(one.stride() == wide[0].stride() for one in wide):
        return sent
    return (*sent, *(one.nbytes for one in wide if not one.is_contiguous()))


def _is_elsewhere(index: torch.Tensor) -> bool:
    """Tell whether an index is on the host; C++ makes those of a list on `meta`, the device that it sees."""
    device: torch.device = index.fake_device  # type: ignore[attr-defined]  # the one that it stands for
    return device.type != "cuda"


RULES = {aten.index.Tensor: _index}
