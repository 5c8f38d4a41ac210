"""The virtual tensor: metadata, a storage record, the device that it reports, and no data.

C++ sees the device `meta`, because a CPU build of torch has no guard for CUDA devices; in Python, `device`,
`is_cuda`, `is_cpu` and `is_meta` report the device that the tensor stands for. For the same reason every method that
depends on the device is overridden here rather than caught later: by then C++ would have decided for `meta`.

A tensor does not hold its value. A storage may (`Storage.real`), and all its views share the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._prims_common import suggest_memory_format

if TYPE_CHECKING:
    from profiler.virtual.device import Device
    from profiler.virtual.storage import Storage

META = torch.device("meta")
CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
_KINDS = ("cpu", "cuda", "meta")

EXTRA_KEY = torch._C.DispatchKey.AutocastXPU
EXTRA_KEYS = torch._C.DispatchKeySet(EXTRA_KEY)
"""The dispatch keys of virtual tensors besides those of `meta` (`autocast.py`)."""

aten = torch.ops.aten
_set_data = torch.Tensor.data.__set__  # type: ignore[attr-defined]


def canonical(device: Any) -> torch.device:
    """Return `device` as a `torch.device`, with an index if it is a CUDA device.

    Raises:
        torch.AcceleratorError: for another GPU than the only one, as CUDA raises it.
        RuntimeError: for a kind of device that PyTorch's CUDA build does not have.
    """
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda":
        if device.index in (None, 0):
            return CUDA
        raise torch.AcceleratorError(
            f"CUDA error: invalid device ordinal: {device} does not exist, a virtual GPU stands alone "
            "(torch.cuda.device_count() is 1)"
        )
    if device.type not in _KINDS:
        raise RuntimeError(
            f"PyTorch is not linked with support for {device.type} devices: a virtual GPU is cuda:0"
        )
    return device


class VirtualTensor(torch.Tensor):
    """The tensor that the module's docstring describes. Made by `profiler.virtual.dispatch` only.

    Attributes:
        storage_record: its `Storage`.
        tag: the interned number of its metadata; equal tags, equal shape, strides, offset, dtype and device.
    """

    storage_record: Storage
    tag: int

    # Free functions are served by patches; without this line every operator would go through Python twice.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(  # noqa: PYI034  # a parameter is made from existing data
        cls: type[VirtualTensor], data: VirtualTensor, requires_grad: bool = False, **_: Any
    ) -> VirtualTensor:
        """Return a parameter over `data`: accelerate rebuilds one by calling the class of the old one."""
        parameter = data.detach().requires_grad_(requires_grad)
        parameter._is_param = True  # type: ignore[attr-defined]
        return parameter  # type: ignore[return-value]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _gpu_of(args, kwargs).dispatch(func, args, kwargs or {})

    @property
    def gpu(self) -> Device:
        """The virtual GPU that made this tensor."""
        return self.storage_record.gpu

    # -- the device that it reports

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.storage_record.device

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.storage_record.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return self.storage_record.device.type == "cpu"

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return self.storage_record.device.type == "meta"

    def get_device(self) -> int:
        return 0 if self.is_cuda else -1

    def data_ptr(self) -> int:
        """Return a virtual address: equal for equal storages, 0 on `meta`, as accelerate's tied weights need."""
        return self.storage_record.address + int(self.storage_offset()) * self.element_size()

    # -- moving it

    def to(self, *args: Any, **kwargs: Any) -> VirtualTensor:  # type: ignore[override]
        """Move or cast as `torch.Tensor.to` does; return `self` if nothing changes."""
        device, dtype, non_blocking, copy, memory_format = _parse_to(*args, **kwargs)
        device = self.device if device is None else device
        dtype = self.dtype if dtype is None else dtype
        same = device == self.device and dtype == self.dtype and not copy
        if same and (
            memory_format in (None, torch.preserve_format)
            or suggest_memory_format(self) == memory_format
        ):
            return self
        if device == META:
            return torch.empty_like(self, dtype=dtype, device=META)  # type: ignore[return-value]
        if self.device == META:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        if non_blocking:
            options["non_blocking"] = True
        if memory_format is not None:
            options["memory_format"] = memory_format
        return self.gpu.dispatch(aten._to_copy.default, (self,), options)  # type: ignore[no-any-return]

    def cpu(self, memory_format: Any = None) -> VirtualTensor:  # type: ignore[override]
        return self.to(CPU) if memory_format is None else self.to(CPU, memory_format=memory_format)

    def cuda(self, device: Any = None, non_blocking: bool = False, **_: Any) -> VirtualTensor:  # type: ignore[override]
        return self.to(CUDA if device is None else device, non_blocking=non_blocking)

    def type_as(self, other: torch.Tensor) -> VirtualTensor:  # type: ignore[override]
        return self.to(device=other.device, dtype=other.dtype)

    def new_tensor(
        self, data: Any, *, dtype: Any = None, device: Any = None, **_: Any
    ) -> torch.Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def pin_memory(self, device: Any = None) -> VirtualTensor:  # type: ignore[override]
        return self.gpu.pin(self)

    def is_pinned(self, device: Any = None) -> bool:  # type: ignore[override]
        return self.storage_record.pinned

    def record_stream(self, stream: Any) -> None:  # type: ignore[override]
        """Keep the memory from being reused, once freed, before `stream` has finished its work up to now."""
        block = self.storage_record.block
        if block is not None:
            self.gpu.allocator.record_stream(block, stream.cuda_stream)

    # -- the value, if it is known

    def numpy(self, *, force: bool = False) -> Any:
        with self.gpu.suspended():
            return self.gpu.values.read(self, "numpy").numpy()

    def tolist(self) -> Any:
        with self.gpu.suspended():
            return self.gpu.values.read(self, "tolist").tolist()

    def __float__(self) -> float:
        """Return the value; also for `torch.Tensor([...])`: its C++ reads the elements with Python's operators off."""
        return float(self.gpu.dispatch(aten._local_scalar_dense.default, (self,), {}))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        known = "known" if self.storage_record.real is not None else "unknown"
        return f"VirtualTensor({tuple(self.shape)}, {self.dtype}, device={self.device}, {known})"

    def __deepcopy__(self, memo: dict[int, Any]) -> VirtualTensor:
        if id(self) not in memo:
            copy = self.detach().clone().requires_grad_(self.requires_grad)
            if hasattr(self, "_is_param"):
                copy._is_param = True  # type: ignore[attr-defined]
            memo[id(self)] = copy
        return memo[id(self)]  # type: ignore[no-any-return]

    # -- operators whose path on CUDA differs from the one that C++ would take for `meta`

    def softmax(self, dim: int, dtype: Any = None) -> VirtualTensor:  # type: ignore[override]
        """Convert inside the kernel, as CUDA does from half precision (`softmax` in ATen's SoftMax.cpp)."""
        dtype = self.gpu.autocast.softmax_dtype(self, dtype)
        if self.is_cuda and self.dtype == torch.float16 and dtype == torch.float32:
            return aten._softmax.default(self, dim, True)  # type: ignore[no-any-return]
        source = self if dtype is None else self.to(dtype)
        return aten._softmax.default(source, dim, False)  # type: ignore[no-any-return]

    def log_softmax(self, dim: int, dtype: Any = None) -> VirtualTensor:  # type: ignore[override]
        """Convert inside the kernel as `softmax` does."""
        dtype = self.gpu.autocast.softmax_dtype(self, dtype)
        if self.is_cuda and self.dtype == torch.float16 and dtype == torch.float32:
            return aten._log_softmax.default(self, dim, True)  # type: ignore[no-any-return]
        source = self if dtype is None else self.to(dtype)
        return aten._log_softmax.default(source, dim, False)  # type: ignore[no-any-return]

    def quantile(self, q: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make a number a tensor on the GPU, as `quantile` in ATen's Sorting.cpp does."""
        return super().quantile(self._where_it_is(q), *args, **kwargs)

    def nanquantile(self, q: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do the same."""
        return super().nanquantile(self._where_it_is(q), *args, **kwargs)

    def _where_it_is(self, number: Any) -> torch.Tensor:
        if isinstance(number, torch.Tensor):
            return number
        return torch.scalar_tensor(number, dtype=self.dtype, device=self.device)

    def allclose(
        self, other: torch.Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
    ) -> bool:
        """Read one value of a comparison; C++ would read it from `meta`. Source: `allclose` in TensorCompare.cpp."""
        close = torch.isclose(self, other, rtol, atol, equal_nan)
        every = close.all()
        answer = bool(every)
        del every, close
        return answer

    # -- replacing the storage

    @property
    def data(self) -> VirtualTensor:  # type: ignore[override]
        return self.detach()  # type: ignore[return-value]

    @data.setter
    def data(self, new: Any) -> None:
        if not isinstance(new, VirtualTensor):
            new = self.gpu.lift(new)
        with torch._C.DisableTorchFunction():
            _set_data(self, new)
        self.storage_record = new.storage_record
        self.tag = new.tag


def _gpu_of(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Device:
    for leaf in torch.utils._pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, VirtualTensor):
            leaf.gpu.must_be_active()
            return leaf.gpu
    raise AssertionError("a virtual operator without a virtual tensor")


def _parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, bool, Any]:
    """Return (device, dtype, non_blocking, copy, memory_format) of a call of `Tensor.to`."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    flags = []
    other = kwargs.get("other")
    for arg in args:
        if isinstance(arg, torch.Tensor):
            other = arg
        elif isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, bool):
            flags.append(arg)
        elif arg is not None:
            device = arg
    if other is not None:
        device, dtype = other.device, other.dtype
    non_blocking, copy = [*flags, *(False, False)[len(flags) :]][:2]
    return (
        None if device is None else canonical(device),
        dtype,
        kwargs.get("non_blocking", non_blocking),
        kwargs.get("copy", copy),
        kwargs.get("memory_format"),
    )
