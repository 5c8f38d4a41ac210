"""Pointwise operators, casts and copies, random numbers, and tensors that are made."""

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
    of,
    short,
    tokens,
    turned,
)
from torch.nn import functional

INPUTS = {"": image, "last": last}
STRANGE = {
    "of a cut": lambda dtype: image(dtype)[..., :32],
    "of one expanded": lambda dtype: empty(1, 512, 1, 1, dtype=dtype).expand(1, 512, 64, 64),
    "of a turned view": lambda dtype: turned(dtype, 4096, 512),
}

UNARY: dict[str, Any] = {
    "gelu": functional.gelu,
    "tanh gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "relu": functional.relu,
    "leaky relu": functional.leaky_relu,
    "elu": functional.elu,
    "softplus": functional.softplus,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "log sigmoid": functional.logsigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sin": torch.sin,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "square": torch.square,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "sign": torch.sign,
    "round": torch.round,
    "nan to num": torch.nan_to_num,
    "isnan": torch.isnan,
    "isfinite": torch.isfinite,
    "isinf": torch.isinf,
    "glu": lambda x: functional.glu(x, 1),
    "geglu": lambda x: x.chunk(2, 1)[0] * functional.gelu(x.chunk(2, 1)[1]),
    "no dropout": lambda x: functional.dropout(x, 0.1, training=False),
    "dropout": lambda x: functional.dropout(x, 0.1, training=True),
    "prelu": lambda x: functional.prelu(x, x[0, :1, 0, 0]),
}
BINARY: dict[str, Any] = {
    "power of two": lambda x: x**2,
    "power": lambda x: x**3.5,
    "power of a number": lambda x: 2.0**x,
    "power of one": lambda x: 1.0**x,
    "power of tensors": lambda x: x**x,
    "power of a scalar tensor": lambda x: x ** torch.tensor(2.0),
    "added": lambda x: x + 1,
    "subtracted from": lambda x: 1 - x,
    "divided": lambda x: x / 3,
    "divided into": lambda x: 1 / x,
    "floor divided": lambda x: x // 3,
    "remainder": lambda x: x % 3,
    "added to a row": lambda x: x + x[:, :, :1],
    "added to channels": lambda x: x + x[:, :, :1, :1],
    "added channels": lambda x: x[:, :, :1, :1] + x,
    "added in single": lambda x: x + x.float(),
    "scaled and shifted": lambda x: x * (1 + x[:, :, :1, :1]) + x[:, :, :1, :1],
    "compared": lambda x: x > 0,
    "compared with itself": lambda x: x == x,  # noqa: PLR0124
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where of two numbers": lambda x: torch.where(x > 0, 1.0, 0.0),
    "where of channels": lambda x: torch.where(x[:, :1] > 0, x, x[:, :, :1]),
    "clamped": lambda x: x.clamp(-1, 1),
    "clamped below": lambda x: x.clamp(min=0),
    "clamped by tensors": lambda x: x.clamp(x[:, :1], x[:, :1]),
    "maximum": lambda x: torch.maximum(x, x),
    "masked fill": lambda x: x.masked_fill(x > 0, 0),
    "masked fill of a row": lambda x: x.masked_fill(x[:, :, :1] > 0, float("-inf")),
    "masked fill by a tensor": lambda x: x.masked_fill(x > 0, torch.tensor(0.0, device=x.device)),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=2),
    "addcdiv": lambda x: torch.addcdiv(x, x, x),
    "lerp": lambda x: torch.lerp(x, x, 0.5),
    "lerp by a tensor": lambda x: torch.lerp(x, x, x),
    "logical": lambda x: torch.logical_and(x > 0, x < 1),
    "bitwise": lambda x: (x > 0) & (x < 1) | ~(x > 2),
    "atan2": lambda x: torch.atan2(x, x),
    "fmod": lambda x: torch.fmod(x, 2),
    "hypot": lambda x: torch.hypot(x, x),
    "mse": lambda x: functional.mse_loss(x, x),
    "distance": lambda x: functional.pairwise_distance(x, x),
    "close": lambda x: torch.isclose(x, x),
    "in place added": lambda x: x.add_(1),
    "in place multiplied by a row": lambda x: x.mul_(x[:, :, :1].clone()),
    "in place filled": lambda x: x.masked_fill_(x > 0, 0),
    "in place copied": lambda x: x.copy_(x.transpose(2, 3).clone()),
    "in place copied in single": lambda x: x.copy_(x.float()),
    "by a number on the host": lambda x: x * torch.tensor(2.0),
    "by a number on the GPU": lambda x: x * torch.tensor(2.0, device=x.device),
    "by a double on the GPU": lambda x: x * torch.tensor(2.0, device=x.device, dtype=torch.float64),
}
CASTS: dict[str, Any] = {
    "to single": lambda x: x.float(),
    "to half": lambda x: x.half(),
    "to bfloat16": lambda x: x.bfloat16(),
    "to double": lambda x: x.double(),
    "to integers": lambda x: x.to(torch.int64),
    "to bytes": lambda x: x.to(torch.uint8),
    "to booleans": lambda x: x.to(torch.bool),
    "to float8": lambda x: x.to(torch.float8_e4m3fn),
    "to float8 and back": lambda x: x.to(torch.float8_e4m3fn).to(x.dtype),
    "copied": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "contiguous, channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "to channels last": lambda x: x.to(memory_format=torch.channels_last),
    "to single with channels last": lambda x: x.to(dtype=SINGLE, memory_format=torch.channels_last),
    "copied contiguously": lambda x: x.clone(memory_format=torch.contiguous_format),
    "to the host": lambda x: x.cpu(),
    "to the host in single": lambda x: x.to("cpu", SINGLE),
    "to the host and back": lambda x: x.cpu().cuda(),
    "a view to the host": lambda x: x.transpose(1, 2).cpu(),
    "a cut to the host": lambda x: x[..., :32].cpu(),
    "a cut from the host": lambda x: torch.empty(1, 512, 64, 64, dtype=x.dtype)[..., :32].cuda(),
    "from the host in another dtype": lambda x: torch.empty(64, 64, dtype=x.dtype).to(
        "cuda", SINGLE if x.dtype != SINGLE else HALF
    ),
    "copied from the host": lambda x: x.copy_(torch.empty(1, 512, 64, 64, dtype=x.dtype)),
    "copied from the host in another dtype": lambda x: x.copy_(
        torch.empty(1, 512, 64, 64, dtype=HALF if x.dtype == SINGLE else SINGLE)
    ),
    "a cut copied from the host": lambda x: x[..., :32].copy_(
        torch.empty(1, 512, 64, 32, dtype=x.dtype)
    ),
    "one row to the host": lambda x: x[0, :, 0, 0].cpu(),
    "seen as integers": lambda x: x.view(torch.int16) + 1,
    "type as": lambda x: x.type_as(x.float()),
    "detached": lambda x: x.detach() + 1,
}


def _sinusoids(given: torch.Tensor) -> torch.Tensor:
    angles = given[0, 0, 0][:, None].float() * torch.exp(
        torch.arange(160, device=given.device, dtype=SINGLE) * -0.1
    )
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _rotated(given: torch.Tensor) -> torch.Tensor:
    halves = given.reshape(1, 512, 64, 32, 2).unbind(-1)
    return torch.stack([-halves[1], halves[0]], dim=-1).flatten(3) * given


MADE: dict[str, Any] = {
    "zeros like": torch.zeros_like,
    "ones like": torch.ones_like,
    "full like": lambda x: torch.full_like(x, 3),
    "empty like": torch.empty_like,
    "randn like": torch.randn_like,
    "rand like": torch.rand_like,
    "new zeros": lambda x: x.new_zeros(64, 64),
    "randn": lambda x: torch.randn(64, 64, dtype=x.dtype, device=x.device),
    "randn of a generator": lambda x: torch.randn(
        64, 64, dtype=x.dtype, device=x.device, generator=torch.Generator("cuda").manual_seed(1)
    ),
    "normal": lambda x: torch.normal(0.0, 1.0, (64, 64), dtype=x.dtype, device=x.device),
    "normal of tensors": lambda x: torch.normal(x, 1.0),
    "bernoulli": torch.bernoulli,
    "randint": lambda x: torch.randint(0, 9, (64, 64), device=x.device),
    "arange": lambda x: torch.arange(4096, device=x.device, dtype=x.dtype),
    "arange of integers": lambda x: torch.arange(4096, device=x.device),
    "linspace": lambda x: torch.linspace(0, 1, 4096, device=x.device, dtype=x.dtype),
    "logspace": lambda x: torch.logspace(0, 1, 4096, device=x.device, dtype=x.dtype),
    "eye": lambda x: torch.eye(64, device=x.device, dtype=x.dtype),
    "full": lambda x: torch.full((64, 64), 2.0, device=x.device, dtype=x.dtype),
    "tensor of a list": lambda x: torch.tensor([1.0, 2.0], device=x.device, dtype=x.dtype),
    "one hot": lambda x: functional.one_hot(torch.arange(8, device=x.device), 16),
    "meshgrid": lambda x: torch.stack(torch.meshgrid(*[x[0, 0, 0]] * 2, indexing="ij")),
    "sinusoids": _sinusoids,
    "complex": lambda x: torch.view_as_complex(x.float().reshape(1, 512, 64, 32, 2)) * 2,
    "rotated": _rotated,
    "polar": lambda x: torch.polar(x.float(), x.float()),
    "real part": lambda x: torch.complex(x.float(), x.float()).real.contiguous(),
}


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    yield from in_dtypes(UNARY, INPUTS)
    yield from in_dtypes(BINARY, INPUTS)
    yield from in_dtypes(
        {name: UNARY[name] for name in ("silu", "gelu", "isnan")}, STRANGE, (HALF,)
    )
    names = ("power of two", "power of a number", "added", "compared", "where", "masked fill")
    yield from in_dtypes({name: BINARY[name] for name in names}, STRANGE, (HALF,))
    yield from in_dtypes(CASTS, INPUTS)
    yield from in_dtypes(
        {name: CASTS[name] for name in ("to single", "copied", "contiguous")}, STRANGE
    )
    yield from in_dtypes(MADE, INPUTS, (HALF, SINGLE))
    yield from in_dtypes(LOSSES, {"": tokens}, (HALF, SINGLE))
    yield from _autocast()


AUTOCAST: dict[str, Any] = {
    "linear": lambda x: functional.linear(x, x[0, :64].float(), x[0, 0, :64].float()),
    "layer norm": lambda x: functional.layer_norm(x, (512,)),
    "softmax": lambda x: x.softmax(-1),
    "matmul": lambda x: x @ x.transpose(1, 2),
    "sum": lambda x: x.sum(),
    "power": lambda x: x**2.5,
    "norm": lambda x: x.norm(),
    "mse": lambda x: functional.mse_loss(x, x),
    "concatenated": lambda x: torch.cat([x, x.float()], 1),
    "RMS norm": lambda x: functional.rms_norm(x, (512,)),
    "cumsum": lambda x: x.cumsum(1),
}


# Where C++ asks whether a tensor is of a subclass, as a virtual one is: `areAnyTensorSubclassLike`.
LOSSES: dict[str, Any] = {
    "binary cross entropy": lambda x: functional.binary_cross_entropy_with_logits(x, x),
    "weighted binary cross entropy": lambda x: functional.binary_cross_entropy_with_logits(
        x, x, pos_weight=x[0, 0]
    ),
    "hinge loss": lambda x: functional.hinge_embedding_loss(x, x),
    "ranking loss": lambda x: functional.margin_ranking_loss(x, x, x),
    "cosine loss": lambda x: functional.cosine_embedding_loss(x[0], x[0], x[0, :, 0]),
    "triplet loss": lambda x: functional.triplet_margin_loss(x, x, x),
    "smoothed cross entropy": lambda x: functional.cross_entropy(
        x[0], torch.zeros(1024, dtype=torch.int64, device=x.device), label_smoothing=0.1
    ),
    "absolute loss": lambda x: functional.l1_loss(x, x),
    "smooth loss": lambda x: functional.smooth_l1_loss(x, x),
    "divergence": lambda x: functional.kl_div(x, x),
}


def _autocast() -> Iterator[OperatorCase]:
    for dtype in (HALF, SINGLE):
        for name, function in AUTOCAST.items():
            yield OperatorCase(
                f"{name} under autocast {short(dtype)}",
                of(_under_autocast(function), lambda dtype=dtype: tokens(dtype)),
            )


def _under_autocast(function: Any) -> Any:
    def call(given: torch.Tensor) -> Any:
        with torch.autocast("cuda", dtype=HALF):
            return function(given)

    return call
