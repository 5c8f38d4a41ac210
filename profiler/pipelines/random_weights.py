"""Random numbers in place of weights, written as fast as memory allows.

Zeros would not do: the operating system backs untouched memory with one page, so copies would be too fast, and a GPU
draws less power on zeros.
"""

from __future__ import annotations

import torch
from torch import nn

_BLOCK = 1 << 22  # distinct random numbers; the tensors repeat them
_SPREAD = 0.02  # standard deviation; the one that transformers initialises with, and small enough for half precision


def fill_at_random(module: nn.Module) -> None:
    """Fill parameters with normal numbers of a small spread, the same in every run; integer ones with zeros."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(_block_size(module), generator=generator).mul_(_SPREAD)
    blocks: dict[torch.dtype, torch.Tensor] = {}
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        if not parameter.is_floating_point():
            flat.zero_()
            continue
        if parameter.dtype not in blocks:
            blocks[parameter.dtype] = block.to(parameter.dtype)
        numbers = blocks[parameter.dtype]
        for piece in flat.split(len(numbers)):
            piece.copy_(numbers[: len(piece)])


def _block_size(module: nn.Module) -> int:
    return min(_BLOCK, max((parameter.numel() for parameter in module.parameters()), default=1))
