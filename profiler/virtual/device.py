"""The machine behind a virtual GPU: its memory, clock, streams and link, and its parts that work on tensors.

All other modules of this package work for one `Device`; `gpu.VirtualGPU` is its only implementation.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from profiler.allocator import report as allocator_report
from profiler.allocator.blocks import Block
from profiler.allocator.caching import Allocator, BlockTooLargeError
from profiler.allocator.clock import D2H, H2D, Clock
from profiler.allocator.clocks import Seconds
from profiler.allocator.history import History
from profiler.allocator.host_memory import HostMemory
from profiler.allocator.pinned import PinnedBlock
from profiler.allocator.settings import Settings
from profiler.gpus.hardware import BLAS_VARIABLE, ROCM, GpuSpec
from profiler.libraries.out_of_memory import Shortage
from profiler.patching import Patches
from profiler.units import format_bytes
from profiler.virtual.copies import LinkCopy
from profiler.virtual.other_gpus import OtherGpus
from profiler.virtual.steps import HeldBlocks
from profiler.virtual.workspaces import NOTHING, Workspace

_T = TypeVar("_T")

_RATES = {  # by whether it goes to the GPU, and whether the host's end is pinned
    (True, True): "pinned_bytes_per_second",
    (False, True): "pinned_bytes_per_second",
    (True, False): "h2d_bytes_per_second",
    (False, False): "d2h_bytes_per_second",
}


class Device(ABC):
    """A model of a GPU.

    Args:
        spec: the GPU's facts.
        settings: of PyTorch's allocators.

    Attributes:
        spec: the GPU's facts.
        capacity_bytes: its total memory.
        h2d_bytes, d2h_bytes: the bytes that crossed the link so far.
        copy_observers: called with (from, to, bytes) after each copy.
        workspace_peak: the bytes allocated at the highest point with a workspace, and that workspace.
        most_peak_bytes: the highest point if every workspace took its upper bound.
        values, operators, dispatch, autocast, tags: the parts that work on tensors, each in the file of its name; their
            types are not named here, since they depend on `Device`.
        replay: replays forwards; None if that is switched off.
        others: the GPUs that this run is compared with; None for none.
        identity_was_read: whether code asked for the name, the memory or the properties, which others answer otherwise.
    """

    values: Any
    operators: Any
    dispatch: Any
    autocast: Any
    tags: Any
    replay: Any

    def __init__(self, spec: GpuSpec, settings: Settings, others: OtherGpus | None = None) -> None:
        self.spec = spec
        self.others = others
        self.identity_was_read = False
        self.capacity_bytes = spec.capacity_bytes
        self.clock = Clock() if others is None else others.clock
        self.host = HostMemory(settings, self.clock)
        self.allocator = self._new_allocator(settings)
        self.history = History(self.allocator, self.clock)
        self.launch_seconds = spec.cost.launch_seconds
        self.h2d_bytes = 0
        self.d2h_bytes = 0
        self.copy_observers: list[Callable[[str, str, int], None]] = []
        self.workspace_peak: tuple[int, Workspace] = (0, NOTHING)
        self.most_peak_bytes = 0
        self._blas_streams: dict[int, Block] = {}
        self.default_stream: Any = None
        self.current_stream: Any = None
        self._thread = 0  # while it is active; also read to check whether it is

    def __repr__(self) -> str:
        """Return the GPU, its memory and whether it is active."""
        state = "active" if self._thread else "not active"
        return f"<VirtualGPU {self.spec.key}, {format_bytes(self.capacity_bytes)}, {state}>"

    # -- the thread that it is active on

    def here(self) -> bool:
        """Tell whether the calling thread is the one that entered the context."""
        return threading.get_ident() == self._thread

    def must_be_active(self) -> None:
        """Raise RuntimeError if a virtual tensor is used in a computation outside its context."""
        if not self.here():
            raise RuntimeError(
                "a virtual tensor can be computed with only inside the VirtualGPU that made it"
            )

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let this thread compute with real tensors."""
        with _disable_current_modes():
            yield

    @abstractmethod
    def mode(self) -> AbstractContextManager[None]:
        """Serve all operators of this thread, including factories."""

    @abstractmethod
    def until_left(self, install: Callable[[Patches], object]) -> None:
        """Call `install` to replace more of torch; the replacements are undone when this GPU is left."""

    # -- memory

    def _new_allocator(self, settings: Settings) -> Allocator:
        limit_bytes = self.capacity_bytes - self.spec.context_bytes
        allocator = Allocator(limit_bytes, settings, self.clock)
        if settings.memory_fraction < 1.0:
            allocator.segments.allowed_bytes = int(settings.memory_fraction * self.capacity_bytes)
        allocator.segments.driver_called = self._driver_called
        if self.spec.unified_memory:
            self.host.beside_bytes = self.spec.context_bytes
            allocator.segments.beside_bytes = lambda: self.host.total_bytes
        return allocator

    def reveal(self) -> GpuSpec:
        """Return the GPU to code that asks for its name, memory or properties."""
        self.identity_was_read = True
        return self.spec

    def _driver_called(self, nbytes: int) -> None:
        cost = self.spec.cost
        self.clock.call_driver(cost.allocate_seconds if nbytes > 0 else cost.release_seconds)
        if self.spec.unified_memory:
            self.host.beside_bytes += nbytes
            self.host.look()

    def allocate(self, nbytes: int, stream: int | None = None) -> Block | None:
        """Allocate device memory on a stream, by default the current one, and return the block; None for 0 bytes.

        Raises:
            torch.cuda.OutOfMemoryError: with torch's wording, if it exceeds the capacity.
        """
        if not nbytes:
            return None
        try:
            return self.allocator.allocate(nbytes, self.clock.current if stream is None else stream)
        except BlockTooLargeError as error:
            raise self._no_memory(error.segment_bytes) from None

    @contextmanager
    def temporaries(self) -> Iterator[HeldBlocks]:
        """Hold blocks that are freed at the end at the latest, the last one first.

        Raises:
            torch.cuda.OutOfMemoryError: as `allocate`; what was allocated is free again.
        """
        held = HeldBlocks(self.allocate, self.allocator.free)
        try:
            yield held
        finally:
            held.free_all()

    def use_workspace(self, workspace: Workspace, *, soft: bool) -> None:
        """Allocate and free a kernel's workspace; if a soft one does not fit, the largest smaller one that does.

        Raises:
            torch.cuda.OutOfMemoryError: if it does not fit and is not soft.
        """
        allocator = self.allocator
        self.most_peak_bytes = max(self.most_peak_bytes, allocator.allocated_bytes + workspace.most)
        if not workspace:
            return
        before = allocator.peak_bytes
        taken = workspace
        if soft and self.others is not None:
            self.others.largest_workspace_bytes = max(
                self.others.largest_workspace_bytes, workspace
            )
        try:
            allocator.touch(workspace, self.clock.current)
        except BlockTooLargeError as error:
            if not soft:
                raise self._no_memory(error.segment_bytes) from None
            self.values.assume(
                "workspace", "a convolution takes another plan, whose workspace does fit"
            )
            taken = Workspace(next(filter(self._fits, workspace.smaller), 0))
        if allocator.peak_bytes > before:
            self.workspace_peak = (allocator.peak_bytes, taken)

    def _fits(self, nbytes: int) -> bool:
        """Allocate and free, and tell whether that could be done; nothing always can."""
        try:
            if nbytes:
                self.allocator.touch(nbytes, self.clock.current)
        except BlockTooLargeError:
            return False
        return True

    def need_blas_workspace(self) -> None:
        """Allocate the current stream's cuBLAS workspace, once; it is kept."""
        stream = self.clock.current
        if stream not in self._blas_streams:
            block = self.allocate(self.spec.blas_workspace_bytes(os.environ.get(BLAS_VARIABLE, "")))
            if block is not None:  # CUBLAS_WORKSPACE_CONFIG=:0:0 switches it off
                self._blas_streams[stream] = block

    @property
    def has_blas_workspace(self) -> bool:
        """True if the current stream's cuBLAS workspace is allocated."""
        return self.clock.current in self._blas_streams

    @property
    def workspace_bytes(self) -> int:
        """The bytes of all cuBLAS workspaces."""
        return sum(block.size for block in self._blas_streams.values())

    @property
    def device_bytes(self) -> int:
        """The bytes that the driver would show as used now."""
        return self.spec.context_bytes + self.allocator.reserved_bytes

    @property
    def free_bytes(self) -> int:
        """The bytes that the driver would show as free now.

        Where host and GPU share their memory, pages that hold files count as free: the system gives them up when memory
        is asked for, though the driver of GB10 and of the Jetsons counts them as used.
        """
        taken = self.device_bytes + (self.host.total_bytes if self.spec.unified_memory else 0)
        return max(self.capacity_bytes - taken, 0)

    def empty_cache(self) -> None:
        """Release reserved memory that is not allocated."""
        self.clock.spend(self.spec.cost.empty_cache_seconds)
        self.allocator.empty_cache()

    def _no_memory(self, segment_bytes: int) -> torch.cuda.OutOfMemoryError:
        """Return torch's error; its `shortage` carries the exact figures that the message rounds."""
        allocator = self.allocator
        error = torch.cuda.OutOfMemoryError(
            allocator_report.out_of_memory(
                allocator,
                segment_bytes,
                capacity_bytes=self.capacity_bytes,
                context_bytes=self.spec.context_bytes,
                free_bytes=self.free_bytes,
                hip=self.spec.platform == ROCM,
            )
        )
        error.shortage = Shortage(  # type: ignore[attr-defined]
            requested_bytes=segment_bytes,
            free_bytes=self.free_bytes,
            allocated_bytes=allocator.allocated_bytes,
            unallocated_bytes=allocator.reserved_bytes - allocator.allocated_bytes,
            allowed_bytes=allocator.segments.allowed_bytes,
        )
        return error

    # -- streams

    def set_stream(self, stream: Any) -> None:
        """Make `stream` the one that new work goes to."""
        self.current_stream = stream
        self.clock.current = stream.cuda_stream

    # -- copies

    def copy(self, copy: LinkCopy, pinned_block: PinnedBlock | None, *, pinned: bool) -> None:
        """Account for a copy's time and bytes, and notify its observers.

        Copies from and to pageable memory make the host wait in any case, since the driver moves them through
        a buffer of its own; a pinned end is not reused before a non-blocking copy is done.

        Source: "API synchronization behavior" in NVIDIA's CUDA Runtime API reference, from knowledge.

        Args:
            copy: the copy, as `link_copy` returns it.
            pinned_block: the block of its host end, if that is pinned and outlives the operator.
            pinned: whether the host end is pinned.
        """
        if pinned and copy.non_blocking:
            self.host.record(pinned_block, self.clock.current)
        self.cross(copy, pinned=pinned)

    def cross(self, copy: LinkCopy, *, pinned: bool) -> None:
        """Do the same for a copy whose host end need not be kept."""
        to_gpu = copy.source == "cpu"
        self.clock.copy(
            H2D if to_gpu else D2H,
            self.spec.cost.copy_seconds,
            self.link_seconds(copy.nbytes, to_gpu=to_gpu, pinned=pinned),
            blocks=not (pinned and copy.non_blocking),
        )
        if copy.host_scratch_bytes:
            self.host.touch(copy.host_scratch_bytes)
        if to_gpu:
            self.h2d_bytes += copy.nbytes
        else:
            self.d2h_bytes += copy.nbytes
        for observer in self.copy_observers:
            observer(copy.source, copy.target, copy.nbytes)

    def link_seconds(self, nbytes: int, *, to_gpu: bool, pinned: bool) -> float:
        """Return the time of a copy."""
        name = _RATES[to_gpu, pinned]
        seconds: float = nbytes / getattr(self.spec, name)
        if self.others is None:
            return seconds
        return Seconds(seconds, (nbytes / getattr(one, name) for one in self.others.specs))

    # -- tensors

    @abstractmethod
    def like(self, tensor: torch.Tensor, device: torch.device, storage: Any = None) -> Any:
        """Return a virtual tensor with `tensor`'s metadata on `device`, in its own storage unless one is given."""

    @abstractmethod
    def lift(self, real: torch.Tensor) -> Any:
        """Return a virtual tensor for a real one, on the same device, with its value if it is small."""

    @abstractmethod
    def place(self, real: torch.Tensor, device: torch.device) -> Any:
        """Return a virtual tensor on `device` with the value of `real`."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """Return a contiguous virtual tensor of unknown value."""

    @abstractmethod
    def pin(self, tensor: Any) -> Any:
        """Return `tensor` in pinned memory: itself, or a copy with its value."""

    @abstractmethod
    def lend(self, pipe: _T) -> _T:
        """Return a twin of a loaded pipeline or module, with virtual tensors in place of its own and without hooks.

        The original is read, never changed.
        """
