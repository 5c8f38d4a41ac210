"""Copies between host and GPU: the bytes that cross the link, and the temporaries that a copy needs at either end.

Source: `copy_kernel_cuda` and `copy_requires_temporaries` in PyTorch's aten/src/ATen/native/cuda/Copy.cu, and `pin_out`
in `_to_copy` of aten/src/ATen/native/TensorConversions.cpp, both read in copies of another date than torch 2.13.0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false


class LinkCopy(NamedTuple):
    """One copy.

    Attributes:
        source: "cpu" or "cuda".
        target: the other one.
        nbytes: the bytes that cross the link.
        non_blocking: whether the host is told not to wait; if its end is pageable, it waits all the same.
        host_scratch_bytes: a temporary in pageable memory.
        card_scratch_bytes: a temporary on the GPU.
    """

    source: str
    target: str
    nbytes: int
    non_blocking: bool = False
    host_scratch_bytes: int = 0
    gpu_scratch_bytes: int = 0


def link_copy(
    devices: tuple[str, str], source: torch.Tensor, target: torch.Tensor, *, non_blocking: bool
) -> LinkCopy:
    """Return the effects of a copy between `devices`; the tensors are on `meta`.

    A direct copy is one `cudaMemcpyAsync`. Otherwise one end is first cast and made contiguous, on the GPU if the
    copy is non-blocking, else on the host, and the other end is brought into its layout afterwards.
    """
    same_dtype = source.dtype == target.dtype
    if same_dtype and _same_layout(source, target):
        return LinkCopy(*devices, _nbytes(target, target.dtype), non_blocking)
    crossing = crossing_dtype(devices, source, target, non_blocking=non_blocking)
    nbytes = _nbytes(target, crossing)
    dense_source = source.is_contiguous() and source.shape == target.shape
    source_scratch = 0 if dense_source and crossing == source.dtype else nbytes
    target_scratch = 0 if target.is_contiguous() and crossing == target.dtype else nbytes
    host, gpu = source_scratch, target_scratch
    if devices[0] == "cuda":
        host, gpu = gpu, host
    return LinkCopy(*devices, nbytes, non_blocking, host, gpu)


def crossing_dtype(
    devices: tuple[str, str], source: torch.Tensor, target: torch.Tensor, *, non_blocking: bool
) -> torch.dtype:
    """Return the dtype in which a copy crosses the link: cast on the GPU if non-blocking, else on the host."""
    cast_first = (devices[0] == "cuda") is non_blocking
    return target.dtype if cast_first else source.dtype


def pins_its_result(devices: tuple[str, str], *, non_blocking: bool) -> bool:
    """Tell whether `x.to(...)` puts its result into pinned memory, as a non-blocking copy to the host does."""
    return non_blocking and devices == ("cuda", "cpu")


def _nbytes(tensor: torch.Tensor, dtype: torch.dtype) -> int:
    return tensor.numel() * dtype.itemsize


def _same_layout(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Tell whether the elements lie in the same order without gaps, so that one memcpy is enough."""
    if source.shape != target.shape or not is_non_overlapping_and_dense_or_false(source):
        return False
    strides = zip(source.shape, source.stride(), target.stride(), strict=True)
    return all(one == other for size, one, other in strides if size > 1)
