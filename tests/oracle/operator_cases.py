"""Single operators whose allocations both sides record: a name, what is called, and the tensors it is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
DTYPES = (HALF, BRAIN, SINGLE)


class OperatorCase(NamedTuple):
    """One call of an operator.

    Attributes:
        name: what it is, with its dtype.
        make: returns the function that is called and its arguments; whatever it allocates is not recorded.
    """

    name: str
    make: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


def empty(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    """Return a tensor on the GPU that nobody wrote."""
    return torch.empty(*shape, dtype=dtype, device="cuda")


def image(dtype: torch.dtype, channels: int = 512, pixels: int = 64) -> torch.Tensor:
    """Return a picture `[1, channels, pixels, pixels]`."""
    return empty(1, channels, pixels, pixels, dtype=dtype)


def last(dtype: torch.dtype, channels: int = 512, pixels: int = 64) -> torch.Tensor:
    """Return the same with channels last."""
    return empty(1, pixels, pixels, channels, dtype=dtype).permute(0, 3, 1, 2)


def tokens(dtype: torch.dtype, length: int = 1024, width: int = 512) -> torch.Tensor:
    """Return two sequences `[2, length, width]`."""
    return empty(2, length, width, dtype=dtype)


def turned(dtype: torch.dtype, length: int = 1024, width: int = 512) -> torch.Tensor:
    """Return the same as a transposed view of `[2, width, length]`."""
    return empty(2, width, length, dtype=dtype).transpose(1, 2)


def video(dtype: torch.dtype, channels: int = 64) -> torch.Tensor:
    """Return a video `[1, channels, 4, 32, 32]`."""
    return empty(1, channels, 4, 32, 32, dtype=dtype)


def video_last(dtype: torch.dtype, channels: int = 64) -> torch.Tensor:
    """Return the same with channels last."""
    return empty(1, 4, 32, 32, channels, dtype=dtype).permute(0, 4, 1, 2, 3)


def counted(*shape: int) -> torch.Tensor:
    """Return indices of known values, all of them small."""
    numbers = torch.arange(torch.Size(shape).numel(), device="cuda").reshape(shape)
    return numbers % 8


def of(function: Callable[..., Any], *given: Callable[[], Any]) -> Callable[[], Any]:
    """Return the `make` of a case that calls `function` with what each of `given` returns."""
    return lambda: (function, tuple(one() for one in given))


def in_dtypes(
    functions: dict[str, Callable[..., Any]],
    inputs: dict[str, Callable[[torch.dtype], torch.Tensor]],
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> Iterator[OperatorCase]:
    """Yield a case of each function of one tensor, with each input and dtype."""
    for dtype in dtypes:
        for name, function in functions.items():
            for kind, make in inputs.items():
                label = " ".join([name, *([kind] if kind else []), short(dtype)])
                yield OperatorCase(label, of(function, lambda make=make, dtype=dtype: make(dtype)))


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name."""
    return str(dtype).removeprefix("torch.")


def operator_cases() -> list[OperatorCase]:
    """Return every case, each name once."""
    import operators_attention
    import operators_indexing
    import operators_layers
    import operators_plain
    import operators_reduced
    import operators_shaped

    families = (
        operators_attention,
        operators_layers,
        operators_reduced,
        operators_plain,
        operators_shaped,
        operators_indexing,
    )
    found = [case for family in families for case in family.cases()]
    assert len({case.name for case in found}) == len(found)
    return found
