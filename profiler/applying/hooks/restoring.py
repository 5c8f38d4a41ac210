"""Restoring modules to the very tensors that they had, if splitting them failed half-way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from profiler.libraries import hooks as private


class HeldTensor(NamedTuple):
    """One tensor of a module, and its place and memory."""

    owner: dict[str, Any]  # a module's parameters or buffers
    name: str
    tensor: torch.Tensor
    data: torch.Tensor


def hold(modules: Iterable[nn.Module]) -> list[HeldTensor]:
    """Return all tensors of some modules. The list keeps their memory alive."""
    return [
        HeldTensor(owner, name, tensor, tensor.data)
        for module in modules
        for part in module.modules()
        for owner in (part._parameters, part._buffers)
        for name, tensor in owner.items()
        if tensor is not None
    ]


@contextmanager
def all_or_nothing(modules: list[nn.Module], folders: Iterable[Path] = ()) -> Iterator[None]:
    """Restore modules if splitting them fails half-way: the very tensors that they had, and no hooks or files."""
    held = hold(modules)
    try:
        yield
    except BaseException:
        for module in modules:
            for group in private.groups_of(module):
                # Page-locked, and in a reference cycle that only the garbage collector would free.
                group.cpu_param_dict.clear()
            private.remove_group_hooks(module)
            private.remove_hooks(module)
        for owner, name, tensor, data in held:
            tensor.data = data
            owner[name] = tensor
        for folder in folders:
            _clear(folder)
        raise


def _clear(folder: Path) -> None:
    """Remove the files of a folder that was empty before, and the folder."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()
