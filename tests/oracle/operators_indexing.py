"""Indexing, gathering and scattering, and operators whose results are as large as values say.

Where C++ itself reads values (`unique`, `bincount`, `one_hot` without classes), nothing is compared: the stand-in has
none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from operator_cases import HALF, SINGLE, OperatorCase, counted, image, in_dtypes, last, of

INPUTS = {"": image, "last": last}
OF_PICTURES: dict[str, Any] = {
    "index select": lambda x: x.index_select(1, counted(8)),
    "indexed": lambda x: x[:, counted(8)],
    "indexed by a list": lambda x: x[:, [0, 2, 1]],
    "indexed twice": lambda x: x[:, counted(8), counted(8)],
    "indexed by host indices": lambda x: x[:, torch.tensor([0, 1])],
    "indexed by pairs": lambda x: x[0, counted(8)[:, None], counted(8)[None]],
    "sliced": lambda x: x[:, ::2].contiguous(),
    "gathered": lambda x: x.gather(1, counted(1, 8, 64, 64)),
    "taken": lambda x: x.take(counted(64)),
    "taken along": lambda x: torch.take_along_dim(x, counted(1, 8, 1, 1), dim=1),
    "scattered": lambda x: x.scatter(1, counted(1, 8, 64, 64), 1.0),
    "scattered from a tensor": lambda x: x.scatter(1, counted(1, 8, 64, 64), x),
    "scattered and added": lambda x: x.scatter_add(1, counted(1, 8, 64, 64), x),
    "index added": lambda x: x.index_add(1, counted(8), x[:, :8]),
    "index copied": lambda x: x.index_copy(1, counted(8), x[:, :8]),
    "index filled": lambda x: x.index_fill(1, counted(8), 0.0),
    "set by indices": lambda x: _set(x, counted(8)),
    "set by a mask": lambda x: _set(x, x > 0),
    "set by a mask of pixels": lambda x: _set(x, counted(1, 512) > 100),
    "put": lambda x: x.index_put((counted(1),), x[:1]),
    "masked scatter": lambda x: x.masked_scatter(x > 0, x),
    "set to a number": lambda x: _set_slice(x, 0.0),
    "set to a tensor": lambda x: _set_slice(x, x[:, :1].clone()),
}
OF_INTEGERS: dict[str, Any] = {
    "nonzero": lambda x: (x == 1).nonzero(),
    "nonzero as tuple": lambda x: (x == 1).nonzero(as_tuple=True),
    "argwhere": lambda x: torch.argwhere(x == 1),
    "where of one": lambda x: torch.where(x == 1),
    "masked select": lambda x: x.masked_select(x == 1),
    "indexed by a mask": lambda x: x[x == 1],
    "indexed rows by a mask": lambda x: x[(x == 1).any(1)],
    "histogram": lambda x: torch.histc(x.float(), 8),
    "item": lambda x: x.flatten()[0].item(),
    "truth": lambda x: bool((x == 1).any()),
    "equal": lambda x: torch.equal(x, x),
    "all close": lambda x: torch.allclose(x.float(), x.float()),
    "is in": lambda x: torch.isin(x, counted(4)),
    "bucketed": lambda x: torch.bucketize(x, counted(4)),
    "search sorted": lambda x: torch.searchsorted(counted(8), x),
    "list": lambda x: x.tolist(),
    "max": lambda x: x.max().item(),
    "sum of a mask": lambda x: (x == 1).sum(-1),
    "position of the largest": lambda x: x.argmax(-1),
    "random order": lambda x: torch.randperm(x.numel(), device=x.device),
    "multinomial": lambda x: torch.multinomial(x.float() + 1, 2),
    "one hot": lambda x: torch.nn.functional.one_hot(x, 8),
    "causal mask": lambda x: torch.ones(77, 77, device=x.device).triu(1),
    "cumsum": lambda x: x.cumsum(-1),
    "padded sequences": lambda x: torch.nn.utils.rnn.pad_sequence([x[0], x[0, :3]]),
    "inverted mask": lambda x: (1.0 - x[:, None, None].to(HALF)) * torch.finfo(HALF).min,
    "masked minimum": lambda x: torch.full((8, 8), torch.finfo(HALF).min, device=x.device),
}


def _set(given: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if index.dtype == torch.bool:
        given[index] = 0.0
    else:
        given[:, index] = given[:, : len(index)].clone()
    return given


def _set_slice(given: torch.Tensor, value: Any) -> torch.Tensor:
    given[:, :8] = value
    return given


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    yield from in_dtypes(OF_PICTURES, INPUTS, (HALF, SINGLE))
    for name, function in OF_INTEGERS.items():
        for words, shape in {"of 2x77": (2, 77), "of 4x512": (4, 512)}.items():
            yield OperatorCase(f"{name} {words}", of(function, lambda shape=shape: counted(*shape)))
