"""Attention in every layout, head size and kind of mask, and by every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from operator_cases import BRAIN, DTYPES, HALF, SINGLE, OperatorCase, empty, of, short
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

HEAD_SIZES = (32, 40, 64, 72, 80, 96, 128, 160, 192, 256, 512)
HEADS = 8
LENGTH = 1024
PROMPT = 77
ODD = 1001


def attend(query: Any, key: Any, mask: Any = None, **options: Any) -> Any:
    """Attend to keys that are the values as well."""
    return functional.scaled_dot_product_attention(query, key, key, attn_mask=mask, **options)


def attend_to_itself(query: Any, mask: Any = None, **options: Any) -> Any:
    """Attend to the queries."""
    return attend(query, query, mask, **options)


def heads(
    dtype: torch.dtype, size: int, length: int = LENGTH, count: int = HEADS, batch: int = 1
) -> Callable[[], torch.Tensor]:
    """Return what makes queries or keys `[batch, count, length, size]`."""
    return lambda: empty(batch, count, length, size, dtype=dtype)


def turned_heads(dtype: torch.dtype, size: int, length: int = LENGTH) -> Callable[[], torch.Tensor]:
    """Return what makes the same in the layout that a linear layer leaves."""
    return lambda: empty(1, length, HEADS, size, dtype=dtype).transpose(1, 2)


def mask(*shape: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return what makes a mask."""
    return lambda: empty(*shape, dtype=dtype)


def expanded(*shape: int, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Return what makes a mask whose rows are one."""
    return lambda: empty(*shape[:-2], 1, shape[-1], dtype=dtype).expand(*shape)


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    for dtype in DTYPES:
        for size in HEAD_SIZES:
            for name, make in _of_size(dtype, size).items():
                yield OperatorCase(f"attention {name} {short(dtype)} {size}", make)
        for name, make in _others(dtype).items():
            yield OperatorCase(f"attention {name} {short(dtype)}", make)
    yield from _by_backend()


def _of_size(dtype: torch.dtype, size: int) -> dict[str, Any]:
    query = heads(dtype, size)
    square = mask(1, 1, LENGTH, LENGTH, dtype=dtype)
    return {
        "plain": of(attend_to_itself, query),
        "of a prompt": of(attend, query, heads(dtype, size, PROMPT)),
        "causal": of(partial(attend_to_itself, is_causal=True), query),
        "transposed": of(attend_to_itself, turned_heads(dtype, size)),
        "masked": of(attend_to_itself, query, square),
        "masked by booleans": of(attend_to_itself, query, mask(1, 1, 1, LENGTH, dtype=torch.bool)),
        "masked by an expanded mask": of(
            attend_to_itself, query, expanded(1, 1, LENGTH, LENGTH, dtype=dtype)
        ),
        "of an odd length, masked": of(
            attend_to_itself, heads(dtype, size, ODD), mask(1, 1, ODD, ODD, dtype=dtype)
        ),
    }


def _others(dtype: torch.dtype) -> dict[str, Any]:
    query, wide = heads(dtype, 64), mask(1, HEADS, LENGTH, LENGTH, dtype=dtype)
    prompt = heads(dtype, 64, PROMPT)
    two, two_prompts = heads(dtype, 64, batch=2), heads(dtype, 64, PROMPT, batch=2)
    return {
        "masked, a mask each head": of(attend_to_itself, query, wide),
        "masked, two dimensions": of(attend_to_itself, query, mask(LENGTH, LENGTH, dtype=dtype)),
        "masked by square booleans": of(
            attend_to_itself, query, mask(1, 1, LENGTH, LENGTH, dtype=torch.bool)
        ),
        "masked by booleans of two dimensions": of(
            attend_to_itself, query, mask(LENGTH, LENGTH, dtype=torch.bool)
        ),
        "masked by expanded booleans": of(
            attend_to_itself, query, expanded(1, 1, LENGTH, LENGTH, dtype=torch.bool)
        ),
        "masked by booleans expanded over heads": of(
            attend_to_itself,
            query,
            lambda: empty(1, 1, 1, LENGTH, dtype=torch.bool).expand(1, HEADS, LENGTH, LENGTH),
        ),
        "masked by odd booleans": of(
            attend_to_itself, heads(dtype, 64, ODD), mask(1, 1, ODD, ODD, dtype=torch.bool)
        ),
        "of prompts, masked": of(attend, two, two_prompts, mask(2, 1, 1, PROMPT, dtype=dtype)),
        "of prompts, masked by booleans": of(
            attend, two, two_prompts, mask(2, 1, 1, PROMPT, dtype=torch.bool)
        ),
        "of prompts, an expanded mask": of(
            attend, two, two_prompts, expanded(2, HEADS, LENGTH, PROMPT, dtype=dtype)
        ),
        "masked in single precision": of(
            attend_to_itself, query, mask(1, 1, LENGTH, LENGTH, dtype=SINGLE)
        ),
        "of one key": of(attend, query, heads(dtype, 64, 1)),
        "scaled": of(partial(attend_to_itself, scale=0.5), query),
        "causal of a prompt": of(partial(attend, is_causal=True), query, prompt),
        "grouped": of(partial(attend, enable_gqa=True), query, heads(dtype, 64, count=2)),
        "grouped, masked": of(
            partial(attend, enable_gqa=True), query, heads(dtype, 64, count=2), wide
        ),
        "of fewer heads": of(attend, query, heads(dtype, 64, count=1)),
        "of three dimensions": of(attend_to_itself, lambda: empty(HEADS, LENGTH, 64, dtype=dtype)),
        "of gaps": of(
            attend_to_itself, lambda: empty(1, HEADS, LENGTH, 128, dtype=dtype)[..., ::2]
        ),
        "of five dimensions": of(attend_to_itself, lambda: empty(1, 2, 4, 256, 64, dtype=dtype)),
        "of small pictures": of(attend_to_itself, heads(dtype, 64, 64, batch=4)),
        "of many": of(attend_to_itself, heads(dtype, 128, 4096, count=24)),
        "of many, of one head": of(attend_to_itself, heads(dtype, 512, 4096, count=1)),
        "dropped out": of(partial(attend_to_itself, dropout_p=0.1), query),
        "of other values": of(
            lambda query, values: functional.scaled_dot_product_attention(query, query, values),
            query,
            heads(dtype, 128),
        ),
        "causal with a mask": of(partial(attend_to_itself, is_causal=True), query, wide),
    }


def _by_backend() -> Iterator[OperatorCase]:
    for backend in (
        SDPBackend.MATH,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ):
        for dtype in (HALF, BRAIN, SINGLE):
            for masked in (None, dtype, torch.bool):
                call = _within(backend, attend_to_itself)
                given = [heads(dtype, 64)]
                given += [mask(1, 1, LENGTH, LENGTH, dtype=masked)] if masked else []
                by = {None: "", torch.bool: ", masked by booleans"}.get(masked, ", masked")
                name = f"attention by {backend.name.lower()}{by} {short(dtype)}"
                yield OperatorCase(name, of(call, *given))
            call = _within(backend, partial(attend_to_itself, is_causal=True))
            yield OperatorCase(
                f"attention by {backend.name.lower()}, causal {short(dtype)}",
                of(call, heads(dtype, 64)),
            )


def _within(backend: SDPBackend, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with sdpa_kernel(backend):
            return function(*args)

    return call
