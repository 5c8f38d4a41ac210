"""Layers with weights: linear layers and products, convolutions, norms, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from operator_cases import (
    BRAIN,
    DTYPES,
    HALF,
    SINGLE,
    OperatorCase,
    empty,
    image,
    last,
    of,
    short,
    tokens,
    turned,
    video,
    video_last,
)
from torch import nn
from torch.nn import functional

Make = Callable[[torch.dtype], Any]


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    for family in (
        _linear,
        _products,
        _convolutions,
        _other_convolutions,
        _norms,
        _mixed,
        _embeddings,
    ):
        for dtype in DTYPES:
            for name, make in family(dtype).items():
                yield OperatorCase(f"{name} {short(dtype)}", make)


def layer(kind: Callable[..., nn.Module], *sizes: Any, **options: Any) -> Callable[..., nn.Module]:
    """Return what makes a layer of a dtype on the GPU."""
    return lambda dtype: kind(*sizes, **options, device="cuda", dtype=dtype).eval()


def called(make_layer: Make, make_input: Make, dtype: torch.dtype) -> Callable[[], Any]:
    """Return the `make` of a case that calls a layer."""
    return lambda: (make_layer(dtype), (make_input(dtype),))


def cut(dtype: torch.dtype) -> torch.Tensor:
    """Return sequences without their first rows."""
    return tokens(dtype, 4096, 640)[:, 10:]


def half_wide(dtype: torch.dtype) -> torch.Tensor:
    """Return the first half of each token."""
    return tokens(dtype, 4096, 1280)[:, :, :640]


LINEAR_INPUTS: dict[str, Make] = {
    "tokens": lambda dtype: tokens(dtype, 4096, 640),
    "one row": lambda dtype: empty(1, 640, dtype=dtype),
    "rows": lambda dtype: empty(4096, 640, dtype=dtype),
    "a vector": lambda dtype: empty(640, dtype=dtype),
    "turned rows": lambda dtype: empty(640, 4096, dtype=dtype).t(),
    "one turned sequence": lambda dtype: empty(1, 640, 4096, dtype=dtype).transpose(1, 2),
    "turned tokens": lambda dtype: turned(dtype, 4096, 640),
    "pictures": lambda dtype: empty(2, 64, 64, 640, dtype=dtype),
    "turned pictures": lambda dtype: empty(2, 640, 64, 64, dtype=dtype).permute(0, 2, 3, 1),
    "cut tokens": half_wide,
    "cut rows": cut,
    "an expanded token": lambda dtype: empty(1, 1, 640, dtype=dtype).expand(2, 77, 640),
    "nothing": lambda dtype: empty(2, 0, 640, dtype=dtype),
}


def _linear(dtype: torch.dtype) -> dict[str, Any]:
    with_bias, without = layer(nn.Linear, 640, 1280), layer(nn.Linear, 640, 1280, bias=False)
    found = {}
    for name, given in LINEAR_INPUTS.items():
        found[f"linear of {name}"] = called(with_bias, given, dtype)
        found[f"linear without bias of {name}"] = called(without, given, dtype)
    narrow = layer(nn.Linear, 640, 1)
    found["linear to one of tokens"] = called(narrow, LINEAR_INPUTS["tokens"], dtype)
    gelu = lambda one: functional.gelu(one)  # noqa: E731, PLW0108  # looked up when it is called
    found["linear and gelu"] = called(
        lambda dtype: _then(with_bias(dtype), gelu), LINEAR_INPUTS["tokens"], dtype
    )
    return found


def _then(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    return lambda given: second(first(given))


def _products(dtype: torch.dtype) -> dict[str, Any]:
    def rows(*shape: int) -> Callable[[], torch.Tensor]:
        return lambda: empty(*shape, dtype=dtype)

    query, key = rows(2, 8, 1024, 64), rows(2, 8, 64, 1024)
    return {
        "matmul of heads": of(torch.matmul, query, key),
        "matmul of turned heads": of(
            torch.matmul, lambda: empty(2, 1024, 8, 64, dtype=dtype).transpose(1, 2), key
        ),
        "matmul of broadcast heads": of(torch.matmul, query, rows(64, 1024)),
        "matmul of one and several": of(torch.matmul, rows(1024, 64), key),
        "matmul of expanded heads": of(
            torch.matmul, query, lambda: empty(2, 1, 64, 1024, dtype=dtype).expand(2, 8, 64, 1024)
        ),
        "matmul of rows": of(torch.matmul, rows(1024, 64), rows(64, 1024)),
        "matmul of vectors": of(torch.matmul, rows(1024), rows(1024)),
        "matmul by a vector": of(torch.matmul, rows(4, 1024, 64), rows(64)),
        "matmul of a vector": of(torch.matmul, rows(64), rows(64, 1024)),
        "matmul of five dimensions": of(
            torch.matmul, rows(2, 2, 4, 256, 64), rows(2, 2, 4, 64, 256)
        ),
        "bmm": of(torch.bmm, rows(8, 1024, 64), rows(8, 64, 1024)),
        "bmm of turned": of(
            torch.bmm, lambda: empty(8, 64, 1024, dtype=dtype).transpose(1, 2), rows(8, 64, 1024)
        ),
        "bmm of gaps": of(
            torch.bmm, lambda: empty(8, 1024, 128, dtype=dtype)[..., ::2], rows(8, 64, 1024)
        ),
        "mm of gaps": of(torch.mm, lambda: empty(1024, 128, dtype=dtype)[:, ::2], rows(64, 1024)),
        "addmm": of(torch.addmm, rows(1024), rows(512, 64), rows(64, 1024)),
        "addmm of a matrix": of(torch.addmm, rows(512, 1024), rows(512, 64), rows(64, 1024)),
        "addmm of a column": of(torch.addmm, rows(512, 1), rows(512, 64), rows(64, 1024)),
        "baddbmm": of(
            lambda a, b, c: torch.baddbmm(a, b, c, beta=0, alpha=0.1),
            rows(8, 1024, 1024),
            rows(8, 1024, 64),
            rows(8, 64, 1024),
        ),
        "baddbmm of a mask": of(
            torch.baddbmm, rows(1, 1, 1024), rows(8, 1024, 64), rows(8, 64, 1024)
        ),
        "outer": of(torch.outer, rows(1024), rows(1024)),
        "tensordot": of(lambda a, b: torch.tensordot(a, b, 1), rows(4, 64, 64), rows(64, 128)),
        "bmm of dtypes": of(
            torch.bmm, rows(8, 64, 64), lambda: empty(8, 64, 64, dtype=torch.float64)
        ),
        "einsum of heads": of(lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), query, query),
        "einsum of channels": of(
            lambda a, b: torch.einsum("bchw,cd->bdhw", a, b), lambda: image(dtype), rows(512, 8)
        ),
        "einsum of rows": of(lambda a: torch.einsum("bchw,bdhw->bcd", a, a), lambda: image(dtype)),
        "einsum of frequencies": of(
            lambda a, b: torch.einsum("a,b->ab", a, b), rows(4096), rows(32)
        ),
        "cdist": of(torch.cdist, rows(128, 64), rows(256, 64)),
        "kron": of(torch.kron, rows(16, 16), rows(16, 16)),
    }


SIZES = {"3": (3, 1, 1), "1": (1, 1, 0), "3 of every second": (3, 2, 1)}


def _convolutions(dtype: torch.dtype) -> dict[str, Any]:
    found = {}
    for name, (size, stride, padding) in SIZES.items():
        conv = layer(nn.Conv2d, 512, 256, size, stride, padding)
        found[f"convolution {name}"] = called(conv, image, dtype)
        found[f"convolution {name} channels last"] = called(conv, last, dtype)
        found[f"convolution {name} of a weight with channels last"] = called(
            lambda dtype, conv=conv: conv(dtype).to(memory_format=torch.channels_last), image, dtype
        )
        found[f"convolution {name} of cut pictures"] = called(
            conv, lambda dtype: image(dtype)[..., :32], dtype
        )
    found["convolution of several"] = called(
        layer(nn.Conv2d, 64, 64, 3, padding=1),
        lambda dtype: empty(4, 64, 64, 64, dtype=dtype),
        dtype,
    )
    found["convolution without bias"] = called(
        layer(nn.Conv2d, 512, 256, 3, padding=1, bias=False), image, dtype
    )
    found["convolution of depth"] = called(
        layer(nn.Conv2d, 512, 512, 3, padding=1, groups=512), image, dtype
    )
    found["convolution of depth channels last"] = called(
        layer(nn.Conv2d, 512, 512, 3, padding=1, groups=512), last, dtype
    )
    found["convolution of groups"] = called(
        layer(nn.Conv2d, 512, 512, 3, padding=1, groups=4), image, dtype
    )
    found["convolution of groups, several"] = called(
        layer(nn.Conv2d, 64, 64, 3, padding=1, groups=4),
        lambda dtype: empty(4, 64, 64, 64, dtype=dtype),
        dtype,
    )
    found["convolution of groups channels last"] = called(
        layer(nn.Conv2d, 512, 512, 3, padding=1, groups=4), last, dtype
    )
    found["convolution dilated"] = called(
        layer(nn.Conv2d, 64, 64, 3, padding=2, dilation=2), lambda dtype: image(dtype, 64), dtype
    )
    found["convolution unbatched"] = called(
        layer(nn.Conv2d, 512, 256, 3, padding=1), lambda dtype: image(dtype)[0], dtype
    )
    return found


def _other_convolutions(dtype: torch.dtype) -> dict[str, Any]:
    found = {}
    for mode in ("reflect", "replicate", "circular"):
        found[f"convolution {mode}"] = called(
            layer(nn.Conv2d, 512, 256, 3, padding=1, padding_mode=mode), image, dtype
        )
        found[f"convolution {mode} channels last"] = called(
            layer(nn.Conv2d, 512, 256, 3, padding=1, padding_mode=mode), last, dtype
        )
    found["convolution same"] = called(layer(nn.Conv2d, 512, 256, 4, padding="same"), image, dtype)
    conv3 = layer(nn.Conv3d, 64, 64, 3, padding=1)
    patches = layer(nn.Conv2d, 16, 1152, 2, stride=2)
    up = layer(nn.ConvTranspose2d, 512, 256, 2, 2)
    found |= {
        "convolution of a sequence": called(
            layer(nn.Conv1d, 512, 256, 3, padding=1),
            lambda dtype: empty(1, 512, 1024, dtype=dtype),
            dtype,
        ),
        "convolution of a turned sequence": called(
            layer(nn.Conv1d, 512, 256, 3, padding=1), lambda dtype: turned(dtype, 512, 1024), dtype
        ),
        "convolution of a video": called(conv3, video, dtype),
        "convolution of a video channels last": called(conv3, video_last, dtype),
        "convolution of frames": called(
            layer(nn.Conv3d, 64, 64, (3, 1, 1), padding=(1, 0, 0)), video, dtype
        ),
        "convolution of patches": called(patches, lambda dtype: image(dtype, 16, 128), dtype),
        "convolution of patches of a video": called(
            layer(nn.Conv3d, 16, 256, (1, 2, 2), stride=(1, 2, 2)),
            lambda dtype: video(dtype, 16),
            dtype,
        ),
        "transposed convolution": called(up, image, dtype),
        "transposed convolution in groups": called(
            layer(nn.ConvTranspose2d, 64, 64, 4, 2, 1, groups=4),
            lambda dtype: image(dtype, 64),
            dtype,
        ),
        "transposed convolution without bias": called(
            layer(nn.ConvTranspose2d, 512, 256, 2, 2, bias=False), image, dtype
        ),
        "transposed convolution channels last": called(up, last, dtype),
        "transposed convolution of a sequence": called(
            layer(nn.ConvTranspose1d, 64, 32, 4, 2, 1),
            lambda dtype: empty(1, 64, 1024, dtype=dtype),
            dtype,
        ),
    }
    return found


def _norms(dtype: torch.dtype) -> dict[str, Any]:
    group, layered = layer(nn.GroupNorm, 32, 512), layer(nn.LayerNorm, 512)
    plain_group = layer(nn.GroupNorm, 32, 512, affine=False)
    rms, batch = layer(nn.RMSNorm, 512), layer(nn.BatchNorm2d, 512)
    plain = layer(nn.LayerNorm, 512, elementwise_affine=False)
    bare_rms = layer(nn.RMSNorm, 512, elementwise_affine=False)
    seq_last = lambda dtype: empty(1, 4096, 512, dtype=dtype).transpose(1, 2)  # noqa: E731
    flat = lambda dtype: empty(2, 512, dtype=dtype)  # noqa: E731
    film = lambda dtype: empty(1, 512, 4, 32, 32, dtype=dtype)  # noqa: E731
    film_last = lambda dtype: empty(1, 4, 32, 32, 512, dtype=dtype).permute(0, 4, 1, 2, 3)  # noqa: E731
    rows = lambda dtype: tokens(dtype)[:, 10:]  # noqa: E731
    two = lambda dtype: empty(2, 512, 32, 32, dtype=dtype)  # noqa: E731
    found = {}
    for name, make, inputs in (
        (
            "group norm",
            group,
            {
                "": image,
                "last": last,
                "turned": seq_last,
                "flat": flat,
                "video": film,
                "video last": film_last,
                "two": two,
            },
        ),
        ("plain group norm", plain_group, {"": image, "last": last}),
        ("layer norm", layered, {"": tokens, "turned": turned, "cut": rows}),
        ("plain layer norm", plain, {"": tokens, "turned": turned, "cut": rows}),
        ("RMS norm", rms, {"": tokens, "turned": turned, "cut": rows}),
        ("plain RMS norm", bare_rms, {"": tokens, "turned": turned}),
        ("batch norm", batch, {"": image, "last": last}),
        ("instance norm", layer(nn.InstanceNorm2d, 512), {"": image, "last": last}),
        ("instance norm with weights", layer(nn.InstanceNorm2d, 512, affine=True), {"": image}),
        ("training batch norm", lambda dtype: batch(dtype).train(), {"": image}),
    ):
        for kind, given in inputs.items():
            found[" ".join(filter(None, [name, kind]))] = called(make, given, dtype)
    found["local response norm"] = of(
        lambda x: functional.local_response_norm(x, 5), lambda: image(dtype)
    )
    found["layer norm of two dimensions"] = of(
        lambda x: functional.layer_norm(x, (64, 64)), lambda: image(dtype)
    )
    return found


def _mixed(dtype: torch.dtype) -> dict[str, Any]:
    """Return norms whose weights have another dtype than their input."""
    found = {}
    for other in (HALF, BRAIN, SINGLE):
        if other == dtype:
            continue
        words = f"with weights in {short(other)} of"
        group, layered = layer(nn.GroupNorm, 32, 512), layer(nn.LayerNorm, 512)
        for name, make, given in (
            ("group norm", group, image),
            ("layer norm", layered, tokens),
            ("RMS norm", layer(nn.RMSNorm, 512), tokens),
            ("batch norm", layer(nn.BatchNorm2d, 512), image),
            ("linear", layer(nn.Linear, 512, 64), tokens),
            ("convolution", layer(nn.Conv2d, 512, 64, 1), image),
        ):
            found[f"{name} {words}"] = lambda make=make, given=given, other=other: (
                make(other),
                (given(dtype),),
            )
    return found


def _embeddings(dtype: torch.dtype) -> dict[str, Any]:
    table = layer(nn.Embedding, 1000, 512)
    return {
        "embedding": lambda: (table(dtype), (empty(1, 77, dtype=torch.int64),)),
        "embedding of a turned table": lambda: (
            functional.embedding,
            (empty(1, 77, dtype=torch.int64), empty(512, 1000, dtype=dtype).t()),
        ),
        "embedding of turned tokens": lambda: (
            table(dtype),
            (empty(77, 2, dtype=torch.int64).t(),),
        ),
        "embedding of 32 bits": lambda: (table(dtype), (empty(1, 77, dtype=torch.int32),)),
    }
