"""Operators that PyTorch's C++ composes of others on CUDA, composed of the same ones here.

Each function does what C++ does, in its order, and keeps each tensor as long: what they allocate is what is dispatched.

Source: PyTorch's aten/src/ATen/native, in the file that each function names, from knowledge; the order is that of
2.13.0, run against a stand-in for the CUDA runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from profiler.virtual.operators.attention_math import safe_softmax
from profiler.virtual.tensor import aten

_NOT_REDUCED, _MEAN = 0, 1  # `at::Reduction`


def _isinf(given: Any) -> Any:
    """Compare magnitudes. Source: `isinf` in TensorCompare.cpp."""
    if not given.is_floating_point():
        return torch.zeros_like(given, dtype=torch.bool)
    return aten.abs.default(given) == math.inf


def _is_all_true(given: Any) -> Any:
    """Reduce a mask. Source: `_is_all_true` in ReduceOps.cpp."""
    return aten.all.default(given)


def _is_any_true(given: Any) -> Any:
    """Reduce a mask. Source: `_is_any_true` in ReduceOps.cpp."""
    return aten.any.default(given)


def _logsumexp(given: Any, dim: Any, keepdim: bool = False) -> Any:
    """Add up what is left beside the largest. Source: `logsumexp_out_impl` in ReduceOps.cpp."""
    if not given.is_floating_point():
        given = given.to(torch.get_default_dtype())
    if not given.numel():
        return aten.log.default(aten.sum.dim_IntList(aten.exp.default(given), dim, keepdim))
    largest = aten.amax.default(given, dim, True)
    kept = largest if keepdim else _without(largest, dim)
    magnitude = aten.abs.default(kept)
    infinite = magnitude == math.inf
    kept.masked_fill_(infinite, 0)
    del infinite, magnitude
    scaled = (given - largest).exp_()
    result = aten.sum.dim_IntList(scaled, dim, keepdim)
    del scaled
    return result.log_().add_(kept)


def _without(tensor: Any, dims: Any) -> Any:
    """Return a view without the dimensions that were reduced, all of them if none are named."""
    rank = tensor.dim()
    chosen = sorted({dim % rank for dim in dims}) if dims and rank else list(range(rank))
    for dim in reversed(chosen):
        tensor = tensor.squeeze(dim)
    return tensor


def _count_nonzero(given: Any, dims: Any = None) -> Any:
    """Add up a mask. Source: `count_nonzero_cuda` in TensorAdvancedIndexing.cpp."""
    return aten.sum.dim_IntList(given != 0, list(dims or []), False)


def _mse_loss(given: Any, target: Any, reduction: int = _MEAN) -> Any:
    return _reduced_into_as_large(
        lambda: aten.mse_loss.default(given, target, _NOT_REDUCED), reduction
    )


def _smooth_l1_loss(given: Any, target: Any, reduction: int = _MEAN, beta: float = 1.0) -> Any:
    return _reduced_into_as_large(
        lambda: aten.smooth_l1_loss.default(given, target, _NOT_REDUCED, beta), reduction
    )


def _reduced_into_as_large(losses_of: Callable[[], Any], reduction: int) -> Any:
    """Reduce losses into a result that was made as large as they are. Source: `mse_loss_out` in Loss.cpp."""
    result = losses_of().as_strided((), ())
    losses = losses_of()
    reduce = aten.mean.out if reduction == _MEAN else aten.sum.IntList_out
    return reduce(losses, [], False, out=result)


def _binary_cross_entropy(
    given: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = _MEAN
) -> Any:
    """Take the logarithm first, then the rest in place. Source: `binary_cross_entropy_with_logits` in Loss.cpp."""
    logarithm = aten.log_sigmoid_forward.default(given)[0]
    if pos_weight is not None:
        factor = (pos_weight - 1).mul(target).add_(1)
        logarithm.mul_(factor)
        del factor
    losses = (1 - target).mul_(given).sub_(logarithm)
    if weight is not None:
        losses.mul_(weight)
    if reduction == _NOT_REDUCED:
        return losses
    result = aten.mean.default(losses) if reduction == _MEAN else aten.sum.default(losses)
    del losses, logarithm
    return result


def _median(given: Any) -> Any:
    """Sort everything and take the middle, or a value that is no number. Source: `median_impl` in cuda/Sorting.cpp."""
    ordered = aten.sort.default(given.flatten())[0]
    last = ordered[-1]
    return torch.where(aten.isnan.default(last), last, ordered[(ordered.numel() - 1) // 2])


def _euclidean_distances(one: Any, other: Any) -> Any:
    """Multiply rows that end in their norms. Source: `_euclidean_dist` in Distance.cpp."""
    norms = aten.pow.Tensor_Scalar(one, 2).sum(-1, True)
    ones = torch.ones_like(norms)
    other_norms = aten.pow.Tensor_Scalar(other, 2).sum(-1, True)
    other_ones = torch.ones_like(other_norms)
    scaled = one * -2
    rows = torch.cat([scaled, norms, ones], -1)
    del ones, norms, scaled
    columns = torch.cat([other, other_ones, other_norms], -1)
    del other_norms, other_ones
    product = torch.matmul(rows, columns.mT)
    del columns, rows
    return product.clamp_min_(0).sqrt_()


def _roll(given: Any, shifts: Any, dims: Any = ()) -> Any:
    """Roll along one dimension after the other. Source: `roll_common` in TensorTransformations.h."""
    rolled = aten.roll.default(given, shifts[:1], dims[:1])
    return aten.roll.default(rolled, shifts[1:], dims[1:])


_COMPOSED: dict[Any, Callable[..., Any]] = {
    aten._safe_softmax.default: safe_softmax,
    aten.isinf.default: _isinf,
    aten._is_all_true.default: _is_all_true,
    aten._is_any_true.default: _is_any_true,
    aten.logsumexp.default: _logsumexp,
    aten.count_nonzero.default: _count_nonzero,
    aten.count_nonzero.dim_IntList: _count_nonzero,
    aten.mse_loss.default: _mse_loss,
    aten.smooth_l1_loss.default: _smooth_l1_loss,
    aten.binary_cross_entropy_with_logits.default: _binary_cross_entropy,
    aten.median.default: _median,
    aten._euclidean_dist.default: _euclidean_distances,
    aten.roll.default: _roll,
}


def composed(func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """Return the function that composes an operator of others on the GPU, None if it has a kernel for `args`."""
    found = _COMPOSED.get(func)
    if found is None or not args[0].is_cuda:
        return None
    if found in (_mse_loss, _smooth_l1_loss) and args[2:3] == (_NOT_REDUCED,):
        return None
    if func is aten.roll.default and (len(args) < 3 or len(args[2]) < 2):
        return None
    return found
