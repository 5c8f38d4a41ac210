"""Operators along dimensions: softmax, sums and other reductions, scans, sorting, Fourier transforms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from operator_cases import (
    HALF,
    SINGLE,
    OperatorCase,
    empty,
    image,
    in_dtypes,
    last,
    tokens,
    turned,
)
from torch.nn import functional

INPUTS = {"": image, "last": last}
ROWS = {"": tokens, "turned": turned}

REDUCTIONS = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "prod": lambda x: x.prod(),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "amax": lambda x: x.amax(),
    "norm": lambda x: x.norm(),
    "std": lambda x: x.std(),
    "var": lambda x: x.var(),
    "any": lambda x: x.any(),
    "all": lambda x: x.all(),
    "argmax": lambda x: x.argmax(),
    "logsumexp": lambda x: x.logsumexp((0, 1, 2, 3)),
    "vector norm of order 1": lambda x: torch.linalg.vector_norm(x, 1),
    "vector norm of order inf": lambda x: torch.linalg.vector_norm(x, float("inf")),
    "vector norm of order 3": lambda x: torch.linalg.vector_norm(x, 3),
    "aminmax": lambda x: x.aminmax(),
    "std and mean": torch.std_mean,
    "sum in single": lambda x: x.sum(dtype=SINGLE),
    "mean in single": lambda x: x.mean(dtype=SINGLE),
    "nansum": lambda x: x.nansum(),
    "count of nonzero": lambda x: x.count_nonzero(),
    "any nan": lambda x: x.isnan().any(),
    "all positive": lambda x: (x > 0).all(),
    "any of integers": lambda x: x.to(torch.int32).any(),
    "sum of booleans": lambda x: (x > 0).sum(),
    "sum of integers": lambda x: x.to(torch.int64).sum(),
    "max of integers": lambda x: x.to(torch.int64).max(),
}
ALONG = {
    "sum of channels": lambda x: x.sum(1),
    "sum of pixels": lambda x: x.sum((2, 3)),
    "sum of rows": lambda x: x.sum(2),
    "sum of columns": lambda x: x.sum(-1),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "mean of pixels": lambda x: x.mean((2, 3), keepdim=True),
    "mean of columns": lambda x: x.mean(-1),
    "variance of channels": lambda x: x.var(1),
    "variance of pixels": lambda x: x.var((2, 3)),
    "variance and mean": lambda x: torch.var_mean(x, (2, 3)),
    "norm of channels": lambda x: x.norm(dim=1),
    "norm of pixels": lambda x: x.norm(dim=(2, 3), keepdim=True),
    "max of channels": lambda x: x.max(1),
    "max of columns": lambda x: x.max(-1),
    "amax of pixels": lambda x: x.amax((2, 3)),
    "argmax of channels": lambda x: x.argmax(1),
    "argmax of columns": lambda x: x.argmax(-1),
    "all of channels": lambda x: (x > 0).all(1),
    "any of columns": lambda x: (x > 0).any(-1),
    "logsumexp of channels": lambda x: x.logsumexp(1),
    "normalised": lambda x: functional.normalize(x, dim=1),
    "cosine similarity": lambda x: functional.cosine_similarity(x, x, dim=1),
    "prod of columns": lambda x: x.prod(-1),
}
SOFTMAX = {
    "softmax": lambda x: x.softmax(-1),
    "softmax of channels": lambda x: x.softmax(1),
    "softmax in single": lambda x: functional.softmax(x, -1, dtype=SINGLE),
    "log softmax": lambda x: x.log_softmax(-1),
    "log softmax in single": lambda x: functional.log_softmax(x, -1, dtype=SINGLE),
    "softmin": lambda x: functional.softmin(x, -1),
}
SCANS = {
    "cumsum": lambda x: x.cumsum(-1),
    "cumsum of channels": lambda x: x.cumsum(1),
    "cumsum of all": lambda x: x.flatten().cumsum(0),
    "cumprod": lambda x: x.cumprod(-1),
    "cumprod of all": lambda x: x.flatten().cumprod(0),
    "cummax": lambda x: x.cummax(-1),
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
    "cumsum of booleans": lambda x: (x > 0).cumsum(-1),
    "diff": lambda x: x.diff(dim=-1),
    "trapezoid": torch.trapezoid,
}
SORTS = {
    "sort": lambda x: x.sort(-1),
    "sort of channels": lambda x: x.sort(1),
    "argsort": lambda x: x.argsort(1),
    "stable sort": lambda x: x.sort(-1, stable=True),
    "topk": lambda x: x.topk(4, -1),
    "topk of channels": lambda x: x.topk(4, 1),
    "topk, not sorted": lambda x: x.topk(4, -1, sorted=False),
    "topk of many": lambda x: x.topk(40, -1),
    "median of columns": lambda x: x.median(-1),
    "kthvalue": lambda x: x.kthvalue(3, -1),
    "mode": lambda x: x.mode(-1),
    "msort": lambda x: torch.msort(x[0]),
}
LONG_SORTS = {
    "sort of 4096": lambda x: x.flatten(2).sort(-1),
    "sort of all": lambda x: x.flatten().sort(),
    "argsort of all": lambda x: x.flatten().argsort(),
    "topk of all": lambda x: x.flatten().topk(16),
    "median": lambda x: x.median(),
    "kthvalue of all": lambda x: x.flatten().kthvalue(9),
}
QUANTILES = {
    "quantile": lambda x: x.float()[0, 0].quantile(0.9),
    "quantile of rows": lambda x: x.float()[0, 0].quantile(0.9, dim=1),
    "quantile kept": lambda x: x.float()[0, :, 0].quantile(0.5, dim=0, keepdim=True),
    "quantile, lower": lambda x: x.float()[0, 0].quantile(0.9, interpolation="lower"),
    "quantile, midpoint": lambda x: x.float()[0, 0].quantile(0.9, interpolation="midpoint"),
    "quantile of several": lambda x: x.float()[0, 0].quantile(
        torch.tensor([0.1, 0.9], device=x.device)
    ),
    "nanquantile": lambda x: x.float()[0, 0].nanquantile(0.9),
    "quantile of all": lambda x: x.float().flatten().quantile(0.995),
    "thresholding": lambda x: x.float().abs().flatten(1).quantile(0.995, dim=1),
}
FOURIER = {
    "fft": lambda x: torch.fft.fftn(x.float(), dim=(-2, -1)),
    "rfft": lambda x: torch.fft.rfft(x.float()),
    "fft filter": lambda x: (
        torch.fft.ifftn(
            torch.fft.ifftshift(
                torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1)),
                dim=(-2, -1),
            ),
            dim=(-2, -1),
        ).real
    ),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x.float())),
    "fft of channels": lambda x: torch.fft.fft(x.float(), dim=1),
}


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    yield from in_dtypes(REDUCTIONS, INPUTS)
    yield from in_dtypes(ALONG, INPUTS)
    yield from in_dtypes(_named(REDUCTIONS, "of tokens"), ROWS, (HALF, SINGLE))
    yield from in_dtypes(_sizes(), {"": lambda dtype: empty(1, dtype=dtype)}, (HALF, SINGLE))
    yield from in_dtypes(SOFTMAX, INPUTS)
    yield from in_dtypes(_named(SOFTMAX, "of tokens"), ROWS)
    yield from in_dtypes(SCANS, INPUTS)
    yield from in_dtypes(SORTS, INPUTS)
    yield from in_dtypes(LONG_SORTS, {"": image}, (HALF, SINGLE))
    yield from in_dtypes(QUANTILES, INPUTS, (HALF, SINGLE))
    yield from in_dtypes(FOURIER, {"": image}, (HALF, SINGLE))


def _named(functions: dict[str, Any], words: str) -> dict[str, Any]:
    few = (
        "sum",
        "mean",
        "max",
        "amax",
        "norm",
        "std",
        "any",
        "all",
        "argmax",
        "softmax",
        "log softmax",
        "softmax in single",
    )
    return {f"{name} {words}": functions[name] for name in few if name in functions}


def _sizes() -> dict[str, Any]:
    """Return sums of sizes that divide a GPU's work otherwise, and along dimensions of other shares."""
    found: dict[str, Any] = {}
    for count in (1, 511, 65_536, 131_072, 1_048_576, 16_777_216, 100_000_000):
        found[f"sum of {count}"] = lambda x, count=count: _sum(x.dtype, (count,), 0)
        found[f"max of {count}"] = lambda x, count=count: empty(count, dtype=x.dtype).max()
        found[f"all of {count}"] = lambda x, count=count: empty(count, dtype=torch.bool).all()
    for shape in ((4, 1_000_000), (300, 100_000), (2_000_000, 3), (100_000, 64), (5, 7, 100_003)):
        for dim in range(len(shape)):
            words = f"{'x'.join(map(str, shape))} along {dim}"
            found[f"sum of {words}"] = lambda x, shape=shape, dim=dim: _sum(x.dtype, shape, dim)
            found[f"variance of {words}"] = lambda x, shape=shape, dim=dim: empty(
                *shape, dtype=x.dtype
            ).var(dim)
    return found


def _sum(dtype: torch.dtype, shape: tuple[int, ...], dim: int) -> torch.Tensor:
    return empty(*shape, dtype=dtype).sum(dim)
