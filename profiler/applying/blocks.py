"""The blocks of a model, some of which may travel by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from profiler.applying.pack import Slot, slots_of


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """Return what the outermost `nn.ModuleList`s hold, by path, in the order of the modules, each once.

    A list or dict in a list is no block, since nobody calls it: what it holds is.
    """
    by_path: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for path, block in _listed(module, "", listed=False):
        if id(block) not in seen:
            seen.add(id(block))
            by_path[path] = block
    return by_path


def _listed(module: nn.Module, prefix: str, *, listed: bool) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        holds_blocks = isinstance(child, nn.ModuleList) or (
            listed and isinstance(child, nn.ModuleDict)
        )
        if listed and not holds_blocks:
            yield prefix + name, child
        else:
            yield from _listed(child, f"{prefix}{name}.", listed=holds_blocks)


def own_slots(module: nn.Module, block: nn.Module) -> list[tuple[Slot, torch.Tensor]]:
    """Return the floating-point tensors that are in `block` and nowhere else in `module`; a tied one once."""
    everywhere = Counter(id(tensor) for _, tensor in slots_of(module))
    here = Counter(id(tensor) for _, tensor in slots_of(block))
    once = {
        id(tensor): (slot, tensor)
        for slot, tensor in slots_of(block)
        if tensor.is_floating_point() and here[id(tensor)] == everywhere[id(tensor)]
    }
    return list(once.values())
