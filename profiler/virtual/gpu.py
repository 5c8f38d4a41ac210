"""The virtual GPU: a context in which torch sees one CUDA GPU that exists only as a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from profiler.allocator.settings import settings_from_environment
from profiler.errors import InputError
from profiler.gpus.calibration import as_measured
from profiler.gpus.hardware import ROCM, GpuSpec, gpu_spec_of
from profiler.patching import Patches, take_turn
from profiler.virtual.device import Device
from profiler.virtual.dispatch import NEW, Dispatcher, Out
from profiler.virtual.lending.lend import lend
from profiler.virtual.operators.learned import Operators
from profiler.virtual.other_gpus import OtherGpus
from profiler.virtual.step_replay.replay import Replay
from profiler.virtual.storage import Holder, Storage
from profiler.virtual.tags import Tags
from profiler.virtual.tensor import CPU, CUDA, META, VirtualTensor
from profiler.virtual.torch_api import cuda as cuda_api
from profiler.virtual.torch_api import dispatch_mode, functions, subclasses, unfollowed
from profiler.virtual.torch_api import safetensors_files as disk
from profiler.virtual.torch_api.autocast import Autocast
from profiler.virtual.torch_api.compiling import Compiling
from profiler.virtual.values import Values

_T = TypeVar("_T")


class VirtualGPU(Device):
    """A GPU without hardware: NVIDIA's, AMD's as ROCm's PyTorch has it, or one that shares the host's memory.

    Inside the context, on the thread that entered it, every tensor is virtual and `torch.cuda` answers from the model.
    After leaving it, torch is as before; tensors made inside cannot be used in computations outside.

    Args:
        model: a GPU's name (`vram list gpus`) or a `GpuSpec`.
        capacity: the total memory that the driver would report, in place of the GPU's own: "8GiB" or bytes.
        replay: whether later calls re-apply the recorded allocations after two identical forwards, instead of running
            the model; no figure changes.
        others: GPUs that the run is compared with (`other_gpus.py`); no figure changes.

    Attributes:
        spec: the GPU's facts.
        capacity_bytes: its total memory.
        h2d_bytes, d2h_bytes: the bytes that crossed the link so far.
        copy_observers: called with (from, to, bytes) after each copy.
        replay: replays forwards; None if that is switched off.
        tags: the numbers of tensors' metadata.

    Raises:
        InputError: for an unknown GPU, a capacity that leaves nothing beside the CUDA context, or settings in
            `PYTORCH_CUDA_ALLOC_CONF`, `PYTORCH_ALLOC_CONF` or ROCm's `PYTORCH_HIP_ALLOC_CONF` that PyTorch refuses.

    Example:
        >>> with VirtualGPU("rtx-4090") as gpu:
        ...     torch.ones(1 << 20, device="cuda")
        ...     torch.cuda.memory_allocated()
    """

    def __init__(
        self,
        model: str | GpuSpec = "rtx-4090",
        *,
        capacity: str | int | None = None,
        replay: bool = True,
        others: OtherGpus | None = None,
    ) -> None:
        chosen = as_measured(gpu_spec_of(model))
        chosen = chosen if capacity is None else chosen.with_capacity(capacity)
        super().__init__(chosen, settings_from_environment(hip=chosen.platform == ROCM), others)
        self.values = Values()
        self.tags = Tags()
        self.operators = Operators(self)
        self.dispatch = Dispatcher(self)
        self.autocast = Autocast(self)
        self.compiling = Compiling(self)
        self.replay = Replay(self) if replay else None
        self._entered_in: threading.Thread | None = None
        self._patches = Patches()

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
        finally:  # which an interrupt may have cut short
            self._leave()

    def _leave(self) -> None:
        thread = self._entered_in
        if thread is not None and thread.is_alive() and not self.here():
            raise InputError(
                f"this virtual GPU was entered in thread {thread.name!r}: leave it there, because what torch keeps of "
                "it by thread can be put back by no other"
            )
        self._patches.restore()

    @contextmanager
    def mode(self) -> Iterator[None]:
        """Serve all operators of this thread, including factories."""
        with dispatch_mode.VirtualMode(self.dispatch, self.compiling.run):
            yield

    def until_left(self, install: Callable[[Patches], object]) -> None:
        """Call `install` to replace more of torch; the replacements are undone when this GPU is left."""
        install(self._patches)

    def lend(self, pipe: _T) -> _T:
        """Return a twin of a loaded pipeline or module, with virtual tensors in place of its own and without hooks.

        The original is read, never changed.
        """
        return lend(self, pipe)

    # -- making tensors

    def like(
        self, tensor: torch.Tensor, device: torch.device, storage: Storage | None = None
    ) -> VirtualTensor:
        """Return a virtual tensor with `tensor`'s metadata on `device`, in its own storage unless one is given."""
        shape, stride, offset = (
            tuple(tensor.shape),
            tuple(tensor.stride()),
            int(tensor.storage_offset()),
        )
        nbytes = tensor.untyped_storage().nbytes() if storage is None else storage.nbytes
        tag = self.tags.of((shape, stride, tensor.dtype, offset, device))
        source = NEW if storage is None else 0
        out = Out(source, shape, stride, tensor.dtype, offset, nbytes, tag, device)
        holder: Any = () if storage is None else (Holder(storage),)
        return self.dispatch.build(out, holder)  # type: ignore[no-any-return]

    def lift(self, real: torch.Tensor) -> VirtualTensor:
        """Return a virtual tensor for a real one, on the same device, with its value if it is small."""
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
        """Return `tensor` in pinned memory: itself, or a copy with its value."""
        if tensor.storage_record.pinned:
            return tensor
        if tensor.device != CPU:
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        with _disable_current_modes():
            compact = torch.empty_like(
                torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
            )
            storage = Storage(self, CPU, compact.untyped_storage().nbytes(), pinned=True)
            # One core makes the copy, as it does for pageable copies to the GPU; locking pages takes longer still.
            self.clock.spend(self.link_seconds(storage.nbytes, to_gpu=True, pinned=False))
            pinned = self.like(compact, CPU, storage)
            known = self.values.known(tensor)
            if known is not None:
                self.values.keep(pinned, known.clone())
        return pinned
