"""The virtual GPU: a context in which torch sees one CUDA card that exists only as a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from profiler.calibration import as_measured
from profiler.errors import InputError
from profiler.hardware import Card, card_of
from profiler.out_of_memory import Shortage
from profiler.patching import Patches, take_turn
from profiler.units import format_bytes
from profiler.virtual import (
    allocator_report,
    cuda_api,
    disk,
    dispatch_mode,
    functions,
    subclasses,
    unfollowed,
)
from profiler.virtual.allocator import Allocator, BlockTooLargeError
from profiler.virtual.allocator_blocks import Block
from profiler.virtual.allocator_settings import Settings, settings_from_environment
from profiler.virtual.autocast import Autocast
from profiler.virtual.clock import D2H, H2D, Clock
from profiler.virtual.compiling import Compiling
from profiler.virtual.copies import LinkCopy
from profiler.virtual.dispatch import NEW, Dispatcher, Out
from profiler.virtual.lending import lend
from profiler.virtual.operators import Operators
from profiler.virtual.replay import Replay
from profiler.virtual.storage import HostMemory, Storage
from profiler.virtual.tags import Tags
from profiler.virtual.tensor import CPU, CUDA, META, VirtualTensor
from profiler.virtual.values import Values
from profiler.virtual.workspaces import NOTHING, Workspace, matrix_product

_T = TypeVar("_T")


class VirtualGPU:
    """A CUDA card without hardware.

    Inside the context, on the thread that entered it, every tensor is virtual and `torch.cuda` answers from the model.
    On leaving it, torch is as before; tensors made inside cannot be computed with outside.

    Args:
        model: a card's name (`vram list gpus`) or a `Card`.
        capacity: what the driver would report as total memory instead of the card's own: "8GiB" or bytes.
        replay: whether a forward that did the same thing twice is done again without running it; no figure changes.

    Attributes:
        card: the card's facts.
        capacity_bytes: its total memory.
        h2d_bytes, d2h_bytes: what crossed the link so far.
        copy_observers: called with (from, to, bytes) after each copy.
        replay: leaves out forwards; None where that is switched off.
        tags: the numbers of tensors' metadata.

    Raises:
        InputError: for an unknown card, a capacity that leaves nothing beside the CUDA context, or settings in
            `PYTORCH_CUDA_ALLOC_CONF` or `PYTORCH_ALLOC_CONF` that PyTorch refuses.

    Example:
        >>> with VirtualGPU("rtx-4090") as gpu:
        ...     torch.ones(1 << 20, device="cuda")
        ...     torch.cuda.memory_allocated()
    """

    def __init__(
        self,
        model: str | Card = "rtx-4090",
        *,
        capacity: str | int | None = None,
        replay: bool = True,
    ) -> None:
        chosen = as_measured(card_of(model))
        self.card = chosen if capacity is None else chosen.with_capacity(capacity)
        self.capacity_bytes = self.card.capacity_bytes
        settings = settings_from_environment()
        self.clock = Clock()
        self.host = HostMemory(settings, self.clock)
        self.allocator = self._new_allocator(settings)
        self.values = Values()
        self.operators = Operators(self)
        self.dispatch = Dispatcher(self)
        self.autocast = Autocast(self)
        self.compiling = Compiling(self)
        self.replay = Replay(self) if replay else None
        self.launch_seconds = self.card.launch_seconds
        self.h2d_bytes = 0
        self.d2h_bytes = 0
        self.copy_observers: list[Callable[[str, str, int], None]] = []
        # Allocated at the highest point with a workspace, and that workspace.
        self.workspace_peak: tuple[int, Workspace] = (0, NOTHING)
        self.most_peak_bytes = (
            0  # the highest point if every workspace took what it can take at most
        )
        self.tags = Tags()
        self._blas_streams: dict[int, Block] = {}
        self.default_stream: Any = None
        self.current_stream: Any = None
        self._thread = 0  # while it is active; also of what only asks whether it is
        self._entered_in: threading.Thread | None = None
        self._patches = Patches()

    def __repr__(self) -> str:
        """Return the card, its memory and whether it is active."""
        state = "active" if self._thread else "not active"
        return f"<VirtualGPU {self.card.key}, {format_bytes(self.capacity_bytes)}, {state}>"

    # -- the context

    def __enter__(self) -> Self:
        if functions.active_gpu() is not None:
            raise InputError("a virtual GPU is already active on this thread; leave it first")
        subclasses.import_libraries()
        patches = Patches()
        try:
            take_turn("a virtual GPU", patches)
            self._patches = patches
            self._install(patches)
            return self  # noqa: TRY300  # an interrupt may come here
        except BaseException:
            patches.restore()
            raise

    def _install(self, patches: Patches) -> None:
        patches.replace(self, "_entered_in", threading.current_thread())
        patches.replace(self, "_thread", threading.get_ident())
        cuda_api.install(self, patches)
        functions.install(self, patches)
        subclasses.install(patches)
        disk.install(self, patches)
        self.autocast.install(patches)
        self.compiling.install(patches)
        unfollowed.install(self, patches)
        dispatch_mode.install(self.dispatch, self.compiling.run, patches)
        if self.replay is not None:
            self.replay.install(patches)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._leave()
        finally:  # which an interrupt may have passed over
            self._leave()

    def _leave(self) -> None:
        thread = self._entered_in
        if thread is not None and thread.is_alive() and not self.here():
            raise InputError(
                f"this virtual GPU was entered in thread {thread.name!r}: leave it there, because what torch keeps of "
                "it by thread can be put back by no other"
            )
        self._patches.restore()

    def here(self) -> bool:
        """Tell whether the calling thread is the one that entered the context."""
        return threading.get_ident() == self._thread

    def must_be_active(self) -> None:
        """Raise RuntimeError where a virtual tensor is computed with outside its context."""
        if not self.here():
            raise RuntimeError(
                "a virtual tensor can be computed with only inside the VirtualGPU that made it"
            )

    @contextmanager
    def mode(self) -> Iterator[None]:
        """Serve every operator of this thread, factories included."""
        with dispatch_mode.Mode(self.dispatch, self.compiling.run):
            yield

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let this thread compute with real tensors."""
        with _disable_current_modes():
            yield

    def until_left(self, install: Callable[[Patches], object]) -> None:
        """Have `install` replace more, which is put back when this GPU is left."""
        install(self._patches)

    def lend(self, pipe: _T) -> _T:
        """Return a twin of a loaded pipeline or module, with virtual tensors in place of its own and without hooks.

        The original is read, never changed.
        """
        return lend(self, pipe)

    # -- memory

    def _new_allocator(self, settings: Settings) -> Allocator:
        limit_bytes = self.capacity_bytes - self.card.context_bytes
        allocator = Allocator(limit_bytes, settings, self.clock)
        if settings.memory_fraction < 1.0:
            allocator.segments.allowed_bytes = int(settings.memory_fraction * self.capacity_bytes)
        return allocator

    def allocate(self, nbytes: int, stream: int | None = None) -> Block | None:
        """Take device memory for a stream, the current one if not given, and return the block; None for nothing.

        Raises:
            torch.cuda.OutOfMemoryError: in torch's words, if it exceeds the capacity.
        """
        if not nbytes:
            return None
        try:
            return self.allocator.allocate(nbytes, self.clock.current if stream is None else stream)
        except BlockTooLargeError as error:
            raise self._no_memory(error.segment_bytes) from None

    def use_workspace(self, workspace: Workspace, *, soft: bool) -> None:
        """Take and give back a kernel's own memory; a soft one is done without where it does not fit."""
        allocator = self.allocator
        self.most_peak_bytes = max(self.most_peak_bytes, allocator.allocated_bytes + workspace.most)
        if not workspace:
            return
        before = allocator.peak_bytes
        try:
            allocator.touch(workspace, self.clock.current)
        except BlockTooLargeError as error:
            if not soft:
                raise self._no_memory(error.segment_bytes) from None
            self.values.assume(
                "workspace", "a convolution does without the workspace that does not fit"
            )
        if allocator.peak_bytes > before:
            self.workspace_peak = (allocator.peak_bytes, workspace)

    def need_blas_workspace(self) -> None:
        """Take the current stream's cuBLAS workspace, once; it stays."""
        stream = self.clock.current
        if stream not in self._blas_streams:
            block = self.allocate(matrix_product(self.card))
            if block is not None:  # CUBLAS_WORKSPACE_CONFIG=:0:0 does without
                self._blas_streams[stream] = block

    @property
    def has_blas_workspace(self) -> bool:
        """Whether the current stream's cuBLAS workspace is there."""
        return self.clock.current in self._blas_streams

    @property
    def workspace_bytes(self) -> int:
        """What the cuBLAS workspaces hold."""
        return sum(block.size for block in self._blas_streams.values())

    @property
    def device_bytes(self) -> int:
        """What the driver would show as used now."""
        return self.card.context_bytes + self.allocator.reserved_bytes

    def empty_cache(self) -> None:
        """Release what is reserved and not allocated."""
        self.allocator.empty_cache()

    def _no_memory(self, segment_bytes: int) -> torch.cuda.OutOfMemoryError:
        """Return torch's error, which carries the figures that its message rounds as `shortage`."""
        allocator = self.allocator
        error = torch.cuda.OutOfMemoryError(
            allocator_report.out_of_memory(
                allocator,
                segment_bytes,
                capacity_bytes=self.capacity_bytes,
                context_bytes=self.card.context_bytes,
            )
        )
        error.shortage = Shortage(  # type: ignore[attr-defined]
            requested_bytes=segment_bytes,
            free_bytes=max(self.capacity_bytes - self.device_bytes, 0),
            allocated_bytes=allocator.allocated_bytes,
            unallocated_bytes=allocator.reserved_bytes - allocator.allocated_bytes,
            allowed_bytes=allocator.segments.allowed_bytes,
        )
        return error

    # -- streams

    def set_stream(self, stream: Any) -> None:
        """Let new work go to `stream`."""
        self.current_stream = stream
        self.clock.current = stream.cuda_stream

    # -- copies

    def copy(self, copy: LinkCopy, end_on_host: Storage | None) -> None:
        """Account for a copy's time and bytes, and tell its observers.

        Copies from and to pageable memory make the host wait whatever it asked for, since the driver moves them through
        a buffer of its own; a pinned end is not reused before a non-blocking copy is done.

        Source: "API synchronization behavior" in NVIDIA's CUDA Runtime API reference, from knowledge.

        Args:
            copy: what crosses the link.
            end_on_host: the storage that it comes from or goes to; None for a pinned one of the operator's own.
        """
        pinned = end_on_host is None or end_on_host.pinned
        if end_on_host is not None and pinned and copy.non_blocking:
            self.host.record(end_on_host, self.clock.current)
        self.cross(copy, pinned=pinned)

    def cross(self, copy: LinkCopy, *, pinned: bool) -> None:
        """Do the same for a copy whose end on the host nobody has to keep."""
        to_card = copy.source == "cpu"
        self.clock.copy(
            H2D if to_card else D2H,
            self.launch_seconds,
            copy.nbytes / self._link_rate(to_card, pinned),
            blocks=not (pinned and copy.non_blocking),
        )
        if copy.host_scratch_bytes:
            self.host.touch(copy.host_scratch_bytes)
        if to_card:
            self.h2d_bytes += copy.nbytes
        else:
            self.d2h_bytes += copy.nbytes
        for observer in self.copy_observers:
            observer(copy.source, copy.target, copy.nbytes)

    def _link_rate(self, to_card: bool, pinned: bool) -> float:
        """Return the bytes per second of a copy."""
        card = self.card
        if pinned:
            return card.pinned_bytes_per_second
        return card.h2d_bytes_per_second if to_card else card.d2h_bytes_per_second

    # -- making tensors

    def like(
        self, tensor: torch.Tensor, device: torch.device, storage: Storage | None = None
    ) -> VirtualTensor:
        """Return a virtual tensor with `tensor`'s metadata on `device`, in a storage of its own unless one is given."""
        shape, stride, offset = (
            tuple(tensor.shape),
            tuple(tensor.stride()),
            int(tensor.storage_offset()),
        )
        nbytes = tensor.untyped_storage().nbytes() if storage is None else storage.nbytes
        tag = self.tags.of((shape, stride, tensor.dtype, offset, device))
        source = NEW if storage is None else 0
        out = Out(source, shape, stride, tensor.dtype, offset, nbytes, tag, device)
        holder: Any = () if storage is None else (_Holder(storage),)
        return self.dispatch.build(out, holder)  # type: ignore[no-any-return]

    def lift(self, real: torch.Tensor) -> VirtualTensor:
        """Return a virtual tensor for a real one, on the device of that, with its value if it is small."""
        with _disable_current_modes():
            tensor = self.like(real, real.device if real.device.type != "cuda" else CUDA)
            if real.device.type == "cpu":
                self.values.keep(tensor, real.detach().clone(memory_format=torch.preserve_format))
        return tensor

    def place(self, real: torch.Tensor, device: torch.device) -> VirtualTensor:
        """Return a virtual tensor on `device` with the value of `real`."""
        with _disable_current_modes():
            tensor = self.like(real, device)
            self.values.keep(tensor, real)
        return tensor

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> VirtualTensor:
        """Return a contiguous virtual tensor of unknown value."""
        with _disable_current_modes():
            return self.like(torch.empty(shape, dtype=dtype, device=META), device)

    def pin(self, tensor: VirtualTensor) -> VirtualTensor:
        """Return `tensor` in pinned memory: itself, or a copy, with its value."""
        if tensor.storage_record.pinned:
            return tensor
        if tensor.device != CPU:
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        with _disable_current_modes():
            compact = torch.empty_like(
                torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
            )
            storage = Storage(self, CPU, compact.untyped_storage().nbytes(), pinned=True)
            # One core copies, which is what bounds pageable copies to the card; locking pages takes longer still.
            self.clock.spend(storage.nbytes / self.card.h2d_bytes_per_second)
            pinned = self.like(compact, CPU, storage)
            known = self.values.known(tensor)
            if known is not None:
                self.values.keep(pinned, known.clone())
        return pinned


class _Holder:
    """Stands for a tensor where only its storage is asked for."""

    def __init__(self, storage: Storage) -> None:
        self.storage_record = storage
