"""Operators that CUDA refuses for tensors of different dtypes, in torch's words; its meta functions let them pass.

Source: `addmm_out_cuda_impl` in PyTorch's aten/src/ATen/native/cuda/Blas.cpp, `check_mixed_data_type` in
aten/src/ATen/native/mixed_data_type.h, and `expect_scalar_type` behind `data_ptr`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from profiler.virtual.operators.normalisation import serves_dtypes
from profiler.virtual.tensor import aten

_NAMES = {
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float",
    torch.float64: "Double",
}


def refuse_mixed_dtypes(func: Any, args: tuple[Any, ...]) -> None:
    """Raise RuntimeError if the kernel of `func` takes one dtype and `args` have several."""
    check = _CHECKS.get(func)
    if check is not None:
        check(args)


def _name(tensor: Any) -> str:
    return _NAMES.get(tensor.dtype, str(tensor.dtype))


def _matrices(one: Any, other: Any) -> None:
    if one.dtype != other.dtype:
        names = f"{_name(one)} and {_name(other)}"
        raise RuntimeError(f"mat1 and mat2 must have the same dtype, but got {names}")


def _batches(one: Any, other: Any) -> None:
    if one.dtype != other.dtype:
        raise RuntimeError(f"expected scalar type {_name(one)} but found {_name(other)}")


def _layer_norm(args: tuple[Any, ...]) -> None:
    given, weight = args[0], args[2]
    if weight is not None and weight.dtype != given.dtype:
        _batches(given, weight)


def _group_norm(args: tuple[Any, ...]) -> None:
    given, weight = args[:2]
    if weight is None or weight.dtype == given.dtype:
        return
    if weight.dtype != torch.float32:
        raise RuntimeError("mixed dtype (CPU): expect parameter to have scalar type of Float")
    _batches(given, weight)


def _batch_norm(args: tuple[Any, ...]) -> None:
    given, weight = args[:2]
    if weight is None or weight.dtype in (given.dtype, torch.float32):
        return
    if serves_dtypes(given.dtype, weight.dtype):
        raise RuntimeError(
            "Expected tensor for argument #1 'input' to have the same type as tensor for argument #2 'weight'; "
            f"but type torch.cuda.{_name(given)}Tensor does not equal torch.cuda.{_name(weight)}Tensor "
            "(while checking arguments for cudnn_batch_norm)"
        )
    raise RuntimeError(f"Expected weight to have type Float but got {_name(weight)}")


_CHECKS: dict[Any, Callable[[tuple[Any, ...]], None]] = {
    aten.mm.default: lambda args: _matrices(args[0], args[1]),
    aten.addmm.default: lambda args: _matrices(args[1], args[2]),
    aten.bmm.default: lambda args: _batches(args[0], args[1]),
    aten.baddbmm.default: lambda args: _batches(args[1], args[2]),
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
}
