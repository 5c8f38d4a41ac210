"""Weights that leave the GPU without being copied: the copies that the host has already are reused.

A tensor is unchanged if it is the same object in the same memory on the GPU, and was not modified in place. Any other
tensor (cast, replaced, modified) is copied to the host, and that copy is the host's from then on. Two kinds of writes
go unnoticed, since PyTorch counts neither: those through `tensor.data`, and in-place writes under
`torch.inference_mode()`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from profiler.applying.hooks.pack import Pack, slots_of
from profiler.libraries import hooks as private
from profiler.libraries.quantised import Slot

if TYPE_CHECKING:
    from collections.abc import Collection

_CPU = torch.device("cpu")


class _HostCopy(NamedTuple):
    """The host's copy of one tensor, and the evidence that the tensor on the GPU is unchanged."""

    host: torch.Tensor
    memory: Any
    version: int


class HostCopies:
    """The host copies of one module while it is on the GPU.

    Args:
        pack: The packed host memory of its floating-point tensors; None to leave them where they are.
    """

    def __init__(self, pack: Pack | None = None) -> None:
        self.staying: Collection[Slot] = (
            frozenset()
        )  # places of tensors that are streamed by themselves
        self._pack = pack
        self._kept: dict[Slot, _HostCopy] = {}

    def bring(self, module: nn.Module, device: torch.device, *, keep: bool = True) -> None:
        """Copy `module` to `device`, and remember the tensors it was copied from if `keep`."""
        host = {slot: one.data for slot, one in slots_of(module) if keep and one.device == _CPU}
        try:
            module._apply(_Sender(device, self._stays(module), pinned=self._pack is not None))
        finally:  # if memory runs out half-way, a part of it is on the GPU
            for slot, tensor in slots_of(module):
                if slot in host and tensor.device != _CPU:
                    self._kept[slot] = _HostCopy(host[slot], _memory(tensor), version_of(tensor))

    def send_home(self, module: nn.Module) -> None:
        """Give `module` its host tensors back; tensors that changed on the GPU are copied."""
        home = _Home(self._stays(module))
        for part in module.modules():
            self._settle(home, part)
        module._apply(home)
        self._kept.clear()

    def _settle(self, home: _Home, part: nn.Module) -> None:
        """Choose the host tensors for the tensors of one module, without its children."""
        recast = private.is_layerwise_cast(part)
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None or tensor.device == _CPU:
                continue
            kept = self._kept.get((id(part), name))
            if kept is not None and _is_unchanged(tensor, kept, recast=recast):
                home.kept[id(tensor)] = kept.host
            elif self._pack is not None:
                place = self._pack.place_of((id(part), name), tensor)
                if place is not None:
                    home.places[id(tensor)] = place

    def _stays(self, module: nn.Module) -> frozenset[int]:
        return frozenset(id(one) for slot, one in slots_of(module) if slot in self.staying)


class _Sender:
    """A function for `Module._apply` that moves tensors as `Module.to` does, except those streamed by themselves."""

    def __init__(self, device: torch.device, stays: frozenset[int], *, pinned: bool) -> None:
        self._device, self._stays, self._pinned = device, stays, pinned

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in self._stays:
            return tensor
        return tensor.to(self._device, non_blocking=self._pinned)


class _Home:
    """A function for `Module._apply` that gives tensors their host copies.

    Attributes:
        dropped_bytes: Bytes that left the GPU without a copy; the tracer reads them.
    """

    def __init__(self, stays: frozenset[int]) -> None:
        self.kept: dict[int, torch.Tensor] = {}
        self.places: dict[int, torch.Tensor] = {}
        self.dropped_bytes = 0
        self._stays = stays
        self._counted: set[int] = set()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in self._stays or tensor.device == _CPU:
            return tensor
        host = self.kept.get(id(tensor))
        if host is None:
            place = self.places.get(id(tensor))
            return tensor.to(_CPU) if place is None else place.copy_(tensor.data)
        if id(tensor) not in self._counted:
            self._counted.add(id(tensor))
            self.dropped_bytes += host.nbytes
        return host


def _is_unchanged(tensor: torch.Tensor, kept: _HostCopy, *, recast: bool) -> bool:
    if version_of(tensor) != kept.version:
        return False
    if recast:
        # Layerwise casting casts up and back at every forward, which restores the same bits in other memory.
        return tensor.dtype == kept.host.dtype
    return _is_memory(kept.memory, tensor)


def _memory(tensor: torch.Tensor) -> Any:
    """Return a weak reference to the memory of `tensor`; not its address, since addresses are reused."""
    record = getattr(tensor, "storage_record", None)  # of a virtual GPU
    return StorageWeakRef(tensor.untyped_storage()) if record is None else weakref.ref(record)


def _is_memory(memory: Any, tensor: torch.Tensor) -> bool:
    if isinstance(memory, weakref.ref):
        return memory() is getattr(tensor, "storage_record", None)
    return bool(memory.cdata == tensor.untyped_storage()._cdata)


def version_of(tensor: torch.Tensor) -> int:
    """Return the number of in-place writes to `tensor` that PyTorch counted; it counts none for inference tensors."""
    return 0 if tensor.is_inference() else tensor._version
