"""The weights of a block that can be streamed by itself."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from profiler.applying.hooks.pack import slots_of
from profiler.libraries.quantised import Slot


def own_slots(module: nn.Module, block: nn.Module) -> list[tuple[Slot, torch.Tensor]]:
    """Return the floating-point tensors that are in `block` and nowhere else in `module`; a tied tensor once."""
    everywhere = Counter(id(tensor) for _, tensor in slots_of(module))
    here = Counter(id(tensor) for _, tensor in slots_of(block))
    once = {
        id(tensor): (slot, tensor)
        for slot, tensor in slots_of(block)
        if tensor.is_floating_point() and here[id(tensor)] == everywhere[id(tensor)]
    }
    return list(once.values())
