"""Onload and offload of one streamed block."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from profiler.allocator.pinned_chunks import aligned
from profiler.applying.hooks.host_copies import version_of
from profiler.applying.hooks.pack import view_into

_CPU = torch.device("cpu")

Place = tuple[dict[str, Any], str]
"""The place at which a module holds a tensor: its dict of parameters or buffers, and the name in it."""


class BlockGroup(ModuleGroup):
    """diffusers' group of modules, with packed host copies and one piece of memory on the GPU.

    That memory belongs to the compute stream. It is allocated on that stream, and the copy starts once the stream has
    finished the work queued until then, so nothing still uses the memory. The block's forward is queued on that stream
    after a wait for the copy, and the memory is freed after that: its next user comes later on the same stream. So the
    allocator needs no `record_stream`, and the host never waits.

    Args:
        block: The block to stream.
        places: The places of its tensors that move; they are on the host.
        device: The device on which the block computes.
        stream: The copy stream; None on a device without streams.

    Attributes:
        keeps_host_copy: Tells the tracer that nothing is copied to the host.
    """

    keeps_host_copy = True

    def __init__(
        self, block: nn.Module, places: list[Place], device: torch.device, stream: Any
    ) -> None:
        self._places = places
        self._home: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self._copied: Any = None  # an event
        super().__init__(
            modules=[block],
            offload_device=_CPU,
            onload_device=device,
            offload_leader=block,
            onload_leader=block,
            stream=stream,
        )

    @property
    def is_loaded(self) -> bool:
        """True if the block is on the GPU, or being copied to it."""
        return bool(self._home)

    def wait(self) -> None:
        """Let the compute stream wait until the block has been copied."""
        if self._copied is not None:
            self._torch_accelerator_module.current_stream(self.onload_device).wait_event(
                self._copied
            )
            self._copied = None

    def _init_cpu_param_dict(self) -> dict[Any, Any]:
        return {}  # the host copies are packed, together with those of the other blocks

    def _onload_from_memory(self) -> None:
        tensors = [held[name] for held, name in self._places]
        hosts = [tensor.data for tensor in tensors]
        nbytes = sum(aligned(host.nbytes) for host in hosts)
        memory = torch.empty(nbytes, dtype=torch.uint8, device=self.onload_device)
        views, begin = [], 0
        for host in hosts:
            views.append(view_into(memory, begin, host))
            begin += aligned(host.nbytes)
        self._copy(hosts, views)
        self._home = [
            (tensor, host, version_of(tensor)) for tensor, host in zip(tensors, hosts, strict=True)
        ]
        for tensor, view in zip(tensors, views, strict=True):
            tensor.data = view

    def _copy(self, hosts: list[torch.Tensor], views: list[torch.Tensor]) -> None:
        if self.stream is None:
            for host, view in zip(hosts, views, strict=True):
                view.copy_(host)
            return
        self.stream.wait_stream(self._torch_accelerator_module.current_stream(self.onload_device))
        with self._torch_accelerator_module.stream(self.stream):
            for host, view in zip(hosts, views, strict=True):
                view.copy_(host, non_blocking=True)
            self._copied = self.stream.record_event()

    def _offload_to_memory(self) -> None:
        self.wait()  # not done yet if the block was not called: its memory may be reused at once
        for tensor, host, version in self._home:
            if version_of(tensor) != version:
                host.copy_(tensor.data)  # modified in place
            tensor.data = host
        self._home = []
