"""Copies of matrices that cuBLAS cannot read where they are: those whose rows and columns both have gaps.

Source: `prepare_matrix_for_cublas` in aten/src/ATen/native/cuda/cuBlasCommonArgs.h, a header that torch 2.13.0
installs; `prepare_batch_matrix_for_cublas` in cuda/Blas.cpp.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false

from profiler.gpus.hardware import GpuSpec
from profiler.virtual.steps import Steps
from profiler.virtual.tensor import aten


def _mm(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return _copies(args[:2])


def _addmm(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    return _copies(args[1:3])


def _solve_triangular(spec: GpuSpec, args: tuple[Any, ...], result: Any) -> Steps:
    """Return a copy of a triangle with gaps, and the addresses of many or small matrices, which go in one batch.

    Source: `linalg_solve_triangular_out` in BatchLinearAlgebra.cpp, `triangular_solve_kernel` in
    cuda/linalg/BatchLinearAlgebra.cpp, both from knowledge.
    """
    triangle = args[0]
    copied = () if triangle.is_contiguous() or triangle.mT.is_contiguous() else (triangle.nbytes,)
    batch = math.prod(result.shape[:-2])
    if batch <= _LOOPED_AT_MOST and triangle.shape[-1] >= _LOOPED_FROM:
        return copied
    return (*copied, *(batch * _ADDRESS_BYTES,) * 2)


# So few matrices of so many rows are solved one after the other.
_LOOPED_AT_MOST, _LOOPED_FROM = 8, 64
_ADDRESS_BYTES = 8


def _copies(matrices: tuple[torch.Tensor, ...]) -> Steps:
    """Return a copy of each matrix `[..., M, N]` that neither has its rows nor its columns in a piece."""
    return tuple(one.nbytes for one in matrices if one.numel() and not _is_readable(one))


def _is_readable(matrix: torch.Tensor) -> bool:
    if matrix.dim() == 2 and is_non_overlapping_and_dense_or_false(matrix):
        return True
    rows, columns = matrix.shape[-2:]
    down, across = matrix.stride()[-2:]
    return (down == 1 and across >= max(1, rows)) or (across == 1 and down >= max(1, columns))


RULES = {
    aten.mm.default: _mm,
    aten.bmm.default: _mm,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _addmm,
    aten._addmm_activation.default: _addmm,
    aten.linalg_solve_triangular.default: _solve_triangular,
}
