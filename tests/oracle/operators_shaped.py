"""Operators that give another shape: padding, resizing, pooling, joining, repeating, turning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from operator_cases import (
    DTYPES,
    HALF,
    SINGLE,
    OperatorCase,
    empty,
    image,
    in_dtypes,
    last,
    tokens,
    turned,
    video,
    video_last,
)
from torch.nn import functional

INPUTS = {"": image, "last": last}
SEVERAL = {
    "": lambda dtype: empty(2, 64, 32, 32, dtype=dtype),
    "last": lambda dtype: empty(2, 32, 32, 64, dtype=dtype).permute(0, 3, 1, 2),
    "of a cut": lambda dtype: image(dtype, 64)[..., :32],
    "of one channel": lambda dtype: empty(1, 1, 64, 64, dtype=dtype),
}
VIDEOS = {"": video, "last": video_last}
SEQUENCES = {"": tokens, "turned": turned}
SHAPED: dict[str, Any] = {
    "concatenated channels": lambda x: torch.cat([x, x], 1),
    "concatenated pictures": lambda x: torch.cat([x, x], 0),
    "concatenated columns": lambda x: torch.cat([x, x, x], -1),
    "concatenated with another layout": lambda x: torch.cat(
        [x, torch.empty_like(x.contiguous())], 1
    ),
    "concatenated dtypes": lambda x: torch.cat([x, x.float()], 1),
    "concatenated many": lambda x: torch.cat([x] * 200, 1),
    "concatenated cuts": lambda x: torch.cat([x[:, :8], x[:, 8:24]], 1),
    "stacked": lambda x: torch.stack([x, x]),
    "stacked innermost": lambda x: torch.stack([x, x], -1),
    "padded": lambda x: functional.pad(x, (0, 1, 0, 1)),
    "padded with ones": lambda x: functional.pad(x, (1, 1, 1, 1), value=1.0),
    "padded by nothing": lambda x: functional.pad(x, (0, 0)),
    "padded channels": lambda x: functional.pad(x, (0, 0, 0, 0, 0, 4)),
    "cropped by padding": lambda x: functional.pad(x, (-1, -1)),
    "padded by reflection": lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "padded by replication": lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"),
    "padded circularly": lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"),
    "repeated": lambda x: x.repeat(2, 1, 1, 1),
    "repeated channels": lambda x: x.repeat(1, 2, 1, 1),
    "tiled": lambda x: torch.tile(x, (1, 1, 2, 1)),
    "repeated by one": lambda x: x.repeat(1, 1, 1, 1),
    "interleaved": lambda x: x.repeat_interleave(2, 1),
    "interleaved pictures": lambda x: x.repeat_interleave(2, 0),
    "interleaved by one": lambda x: x.repeat_interleave(1, 0),
    "expanded": lambda x: x.expand(4, -1, -1, -1).contiguous(),
    "expanded and reshaped": lambda x: (
        x[:, None].expand(-1, 4, -1, -1, -1).reshape(4, *x.shape[1:])
    ),
    "reshaped": lambda x: x.reshape(1, 512, 4096),
    "reshaped tokens": lambda x: x.permute(0, 2, 3, 1).reshape(1, 4096, 512),
    "flattened turned": lambda x: x.transpose(1, 2).flatten(),
    "one half": lambda x: x.chunk(2, 1)[1].contiguous(),
    "split": lambda x: [one.contiguous() for one in x.split(128, 1)],
    "unbound": lambda x: [one + 1 for one in x[0, :4].unbind(0)],
    "rolled": lambda x: x.roll(1, 2),
    "rolled in two dimensions": lambda x: x.roll((1, 1), (2, 3)),
    "rolled flat": lambda x: x.roll(1),
    "flipped": lambda x: x.flip(2),
    "rotated by a quarter": lambda x: torch.rot90(x, 1, (2, 3)),
    "turned and copied": lambda x: x.transpose(2, 3).contiguous(),
    "permuted and copied": lambda x: x.permute(1, 0, 3, 2).contiguous(),
    "shuffled": lambda x: functional.pixel_shuffle(x, 2),
    "unshuffled": lambda x: functional.pixel_unshuffle(x, 2),
    "shuffled channels": lambda x: functional.channel_shuffle(x, 4),
    "patches": lambda x: (
        x.reshape(1, 512, 32, 2, 32, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 1024, 2048)
    ),
    "unfolded": lambda x: functional.unfold(x, 3),
    "unfolded patches": lambda x: functional.unfold(x, 2, stride=2),
    "folded": lambda x: functional.fold(x.reshape(1, 2048, 1024), (64, 64), 2, stride=2),
    "unfolded view": lambda x: x.unfold(2, 2, 2).contiguous(),
    "average pooled": lambda x: functional.avg_pool2d(x, 2),
    "max pooled": lambda x: functional.max_pool2d(x, 2),
    "adaptively pooled": lambda x: functional.adaptive_avg_pool2d(x, 8),
    "adaptively pooled to one": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptively max pooled": lambda x: functional.adaptive_max_pool2d(x, 8),
    "upper triangle": lambda x: x.triu(1),
    "lower triangle": lambda x: x.tril(),
    "diagonal": lambda x: torch.diag_embed(x[0, :, 0]),
    "diagonal taken": lambda x: x.diagonal(dim1=2, dim2=3).contiguous(),
    "squeezed": lambda x: x.squeeze(0).unsqueeze(1) + 1,
    "moved": lambda x: x.movedim(1, -1).contiguous(),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, :3], dim=1),
    "grid sampled": lambda x: functional.grid_sample(
        x, torch.zeros(1, 32, 32, 2, dtype=x.dtype, device=x.device), align_corners=False
    ),
}
SIZED: dict[str, Any] = {
    f"{mode} {words}": lambda x, mode=mode, options=options: functional.interpolate(
        x, mode=mode, **options
    )
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    for words, options in {
        "by two": {"scale_factor": 2.0},
        "by a half": {"scale_factor": 0.5},
        "to a size": {"size": (80, 48)},
    }.items()
    if mode != "bicubic" or words == "by two"  # torch's meta function takes a third of a second
} | {
    f"{mode} antialiased": lambda x, mode=mode: functional.interpolate(
        x, size=(24, 24), mode=mode, antialias=True
    )
    for mode in ("bilinear", "bicubic")
}
OF_VIDEOS: dict[str, Any] = {
    "nearest by two": lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "nearest-exact by two": lambda x: functional.interpolate(
        x, scale_factor=2.0, mode="nearest-exact"
    ),
    "trilinear by two": lambda x: functional.interpolate(x, scale_factor=2.0, mode="trilinear"),
    "nearest of pictures": lambda x: functional.interpolate(x, scale_factor=(1.0, 2.0, 2.0)),
    "padded": lambda x: functional.pad(x, (1, 1, 1, 1, 2, 0)),
    "padded by replication": lambda x: functional.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate"),
    "padded by reflection": lambda x: functional.pad(x, (1, 1, 1, 1, 1, 1), mode="reflect"),
    "average pooled": lambda x: functional.avg_pool3d(x, (1, 2, 2)),
    "max pooled": lambda x: functional.max_pool3d(x, (1, 2, 2)),
    "frames as pictures": lambda x: x.permute(0, 2, 1, 3, 4).reshape(4, 64, 32, 32),
    "concatenated frames": lambda x: torch.cat([x[:, :, :1], x], 2),
    "repeated frames": lambda x: x.repeat_interleave(2, 2),
    "silu": functional.silu,
    "added": lambda x: x + 1,
    "mean of pixels": lambda x: x.mean((2, 3, 4)),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
}
OF_SEQUENCES: dict[str, Any] = {
    "linear by two": lambda x: functional.interpolate(x, scale_factor=2.0, mode="linear"),
    "nearest by two": lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "padded by reflection": lambda x: functional.pad(x, (1, 1), mode="reflect"),
    "padded by replication": lambda x: functional.pad(x, (1, 1), mode="replicate"),
    "average pooled": lambda x: functional.avg_pool1d(x, 2),
    "max pooled": lambda x: functional.max_pool1d(x, 2),
    "heads": lambda x: x.unflatten(-1, (8, -1)).transpose(1, 2).contiguous(),
    "thirds": lambda x: [one.contiguous() for one in x.tensor_split(3, -1)],
}


def cases() -> Iterator[OperatorCase]:
    """Yield all of them."""
    yield from in_dtypes(SHAPED, INPUTS)
    yield from in_dtypes(SIZED, INPUTS, (HALF, SINGLE))
    yield from in_dtypes(_prefixed("several", SIZED), SEVERAL, (HALF,))
    yield from in_dtypes(_prefixed("video", OF_VIDEOS), VIDEOS, DTYPES)
    yield from in_dtypes(_prefixed("sequence", OF_SEQUENCES), SEQUENCES, (HALF, SINGLE))


def _prefixed(word: str, functions: dict[str, Any]) -> dict[str, Any]:
    return {f"{word}: {name}": function for name, function in functions.items()}
