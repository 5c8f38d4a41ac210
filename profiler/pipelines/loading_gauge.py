"""The host memory that loading a checkpoint in one file takes, read off a virtual GPU while diffusers loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.libraries.loading_memory import Loading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from profiler.pipelines.checkpoint import Checkpoint
    from profiler.virtual.device import Device
    from profiler.virtual.storage import Storage


class Gauge:
    """A reader of the host memory that loading takes on a virtual GPU, of which there may be none."""

    def __init__(self, gpu: Device | None) -> None:
        self._host = None if gpu is None else gpu.host
        self._before = 0 if gpu is None else gpu.host.total_bytes
        self._peak = 0

    def start(self) -> None:
        """Begin to look at the next component."""
        if self._host is not None:
            self._host.take_peak()

    def stop(self) -> None:
        """Count what was taken since `start`; without it, it does not count."""
        if self._host is not None:
            self._peak = max(self._peak, self._host.take_peak() - self._before)

    def loading(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, torch.Tensor],
        modules: Mapping[str, nn.Module],
    ) -> Loading:
        """Return the host memory at its peak, and once the checkpoint's own tensors are gone.

        A safetensors file stays mapped as a whole while a tensor is a view of it, and what nobody reads of it takes no
        memory. Of a GGUF file every tensor is copied before anything else: `load_gguf_checkpoint` of diffusers 0.42.1.
        """
        mapped = {id(_storage(one)): one.nbytes for one in tensors.values()}
        made = {
            id(_storage(one)): _storage(one) for part in modules.values() for one in _held_by(part)
        }
        copied_bytes = sum(one.nbytes for key, one in made.items() if key not in mapped)
        if checkpoint.is_gguf:
            held_bytes = copied_bytes + sum(size for key, size in mapped.items() if key in made)
            return Loading(max(self._peak, 2 * checkpoint.nbytes), held_bytes)
        unread_bytes = sum(one.nbytes for one in checkpoint.averages)
        views_bytes = checkpoint.nbytes - unread_bytes if mapped.keys() & made.keys() else 0
        return Loading(self._peak - unread_bytes, copied_bytes + views_bytes)


def _held_by(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _storage(tensor: torch.Tensor) -> Storage:
    return tensor.storage_record  # type: ignore[attr-defined,no-any-return]
