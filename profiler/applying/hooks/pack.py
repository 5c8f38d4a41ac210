"""Host copies of a module's weights in a few large blocks of memory, page-locked if there is a GPU.

Only floating-point tensors are packed: indices and masks are few and small, and stay in pageable memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from profiler.allocator.pinned_chunks import aligned, chunks
from profiler.libraries.modules import visited
from profiler.libraries.quantised import Slot


def slots_of(module: nn.Module) -> Iterator[tuple[Slot, torch.Tensor]]:
    """Yield every parameter and buffer with the place that holds it, a tied tensor once for each of its places.

    The order is that of `nn.Module._apply`: children first.
    """
    for part in visited(module):
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield (id(part), name), tensor


def view_into(region: torch.Tensor, begin: int, tensor: torch.Tensor) -> torch.Tensor:
    """Return a view at byte `begin` of `region` with the shape, layout and dtype of `tensor`.

    Both `begin` and the region's bytes are multiples of 512, so of every element size.
    """
    dense = tensor if tensor.is_contiguous() else torch.empty_like(tensor, device="meta")
    whole = region.view(tensor.dtype)
    return whole.as_strided(tensor.shape, dense.stride(), begin // tensor.element_size())


class Pack:
    """Packed host copies, by the places of the tensors that are views of them."""

    def __init__(self) -> None:
        self._views: dict[Slot, torch.Tensor] = {}
        self._chunks: list[tuple[Slot, ...]] = []
        self._pinned = False

    def take_in(self, slots: Iterable[tuple[Slot, torch.Tensor]], *, pin: bool) -> None:
        """Move host tensors into packed memory, one chunk at a time, so that little is held twice.

        Args:
            slots: The tensors to pack; of tied places the first counts.
            pin: Whether to page-lock the memory.
        """
        once = {id(tensor): (slot, tensor) for slot, tensor in reversed(list(slots))}
        found = [(slot, tensor) for slot, tensor in reversed(once.values()) if tensor.numel()]
        self._pinned = pin
        for chunk in chunks([tensor.nbytes for _, tensor in found]):
            region = torch.empty(chunk.nbytes, dtype=torch.uint8, pin_memory=pin)
            self._chunks.append(tuple(found[index][0] for index in chunk.indices))
            begin = 0
            for index in chunk.indices:
                slot, tensor = found[index]
                self._views[slot] = view = view_into(region, begin, tensor)
                view.copy_(tensor.data)
                tensor.data = view  # this releases its old memory
                begin += aligned(tensor.nbytes)

    def place_of(self, slot: Slot, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the packed memory of this place if `tensor` still fits it, else None."""
        view = self._views.get(slot)
        fits = view is not None and view.dtype == tensor.dtype and view.shape == tensor.shape
        return view if fits else None

    def holds(self, slot: Slot, tensor: torch.Tensor) -> bool:
        """Tell whether `tensor` is a view of the packed memory of this place."""
        view = self.place_of(slot, tensor)
        return view is not None and tensor.data_ptr() == view.data_ptr()

    def give_out(self, slots: Iterable[tuple[Slot, torch.Tensor]]) -> None:
        """Turn packed tensors into ordinary ones again, one chunk at a time, and free the memory."""
        tensors = dict(slots)
        if self._pinned:
            torch.accelerator.synchronize()  # memory that a copy still reads cannot be freed
        for chunk in self._chunks:
            for slot in chunk:
                tensor = tensors.get(slot)
                if tensor is not None and self.holds(slot, tensor):
                    tensor.data = tensor.data.clone()
                self._views.pop(slot, None)
            if self._pinned:
                torch.accelerator.empty_host_cache()  # PyTorch would keep it page-locked
        self._chunks.clear()
        if self._pinned:
            torch.accelerator.empty_host_cache()  # also memory that an interrupt left before it was recorded
