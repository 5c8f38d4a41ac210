"""`torch.cuda` and `torch.accelerator` for one virtual GPU: what they report, their streams, events and generators.

Everything is a replaced attribute that serves the owning thread and passes other threads on to torch; all of them are
restored on leaving, together with torch's queue of lazy calls and diffusers' cached device type.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from profiler.allocator import report as allocator_report
from profiler.allocator.history import History
from profiler.gpus.hardware import ROCM
from profiler.patching import Patches
from profiler.virtual.tensor import CUDA, canonical
from profiler.virtual.torch_api import memory_history
from profiler.virtual.torch_api.streams import event_class, generator_class, stream_class

if TYPE_CHECKING:
    from profiler.allocator.blocks import Block
    from profiler.virtual.device import Device

_summary = torch.cuda.memory.memory_summary
_CUDA_MODULES = (
    torch.cuda,
    torch.cuda.graphs,
    torch.cuda.memory,
    torch.cuda.random,
    torch.cuda.streams,
)
# These check the number before CUDA does.
_ASK_BY_ID = ("get_device_name", "get_device_capability", "get_device_properties")
_HIP_VERSION = "7.2.26015"  # as the build of torch for ROCm 7.2 prints it in public logs
_RNG_STATE_BYTES = 16  # a seed and an offset: CUDAGeneratorImpl's in ATen/cuda/CUDAGeneratorImpl.h


def install(gpu: Device, patches: Patches) -> None:
    """Make torch answer for `gpu` on this thread, and leave torch as it was found."""
    if not gpu.history.recording:
        gpu.history = History(gpu.allocator, gpu.clock)
    history = gpu.history
    _keep_queues(patches)
    _renew_detection(patches)
    _replace_behind(gpu, history, patches)
    _name_platform(gpu, patches)
    for name, ours in (*_functions(gpu).items(), *_snapshots(history).items()):
        _replace(gpu, patches, _CUDA_MODULES, name, ours)
    for name, ours in _accelerator_functions(gpu).items():
        _replace(gpu, patches, (torch.accelerator, torch.accelerator.memory), name, ours)
    stream = stream_class(gpu)
    for owner in (torch.cuda, torch.cuda.streams):
        patches.replace(owner, "Stream", stream)
        patches.replace(owner, "Event", event_class(gpu))
    patches.replace(torch, "Generator", generator_class(gpu))
    gpu.default_stream = stream(number=0)
    gpu.current_stream = gpu.default_stream
    # A pipeline may keep its streams; the GPU need not.
    patches.afterwards(lambda: setattr(gpu, "current_stream", gpu.default_stream))


def _name_platform(gpu: Device, patches: Patches) -> None:
    """Make `torch.version` say what PyTorch's build for ROCm says, if the GPU is AMD's."""
    if gpu.spec.platform == ROCM:
        # What it reads of torch when it is imported stays: it is to be imported before.
        import transformers.modeling_flash_attention_utils  # noqa: F401

        patches.replace(torch.version, "hip", _HIP_VERSION)
        patches.replace(torch.version, "cuda", None)


def _replace(
    gpu: Device, patches: Patches, owners: Any, name: str, ours: Callable[..., Any]
) -> None:
    for owner in owners:
        original = vars(owner).get(name)
        if original is not None:
            patches.replace(owner, name, here_or(gpu, _for_one_gpu(name, ours), original))


def _for_one_gpu(name: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    """Return `ours` with its `device` argument checked first, if it has one and it is given."""
    signature = inspect.signature(ours)
    if "device" not in signature.parameters:
        return ours

    def checked(*args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            try:
                _check(signature.bind(*args, **kwargs).arguments.get("device"))
            except torch.AcceleratorError as error:
                if name in _ASK_BY_ID:
                    raise AssertionError("Invalid device id") from error
                raise
        return ours(*args, **kwargs)

    return checked


def _check(device: Any) -> None:
    """Raise what torch raises if `device` is another than the one GPU; a negative index means none."""
    if device is None or (isinstance(device, int) and device < 0):
        return
    if canonical(device) != CUDA:
        raise ValueError(f"Expected a cuda device, but got: {device}")


def _replace_behind(gpu: Device, history: History, patches: Patches) -> None:
    """Replace the C++ functions behind torch's own Python functions; a CPU build has none of them."""
    for name, ours in memory_history.functions(history).items():
        original = vars(torch._C).get(name, _absent(name))
        patches.replace(torch._C, name, here_or(gpu, ours, original))


def _absent(name: str) -> Callable[..., Any]:
    def absent(*_: Any, **__: Any) -> Any:
        raise AttributeError(f"module 'torch._C' has no attribute '{name}'")

    return absent


def here_or(
    gpu: Device, ours: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that is `ours` on the thread where `gpu` is active, and `original` on every other.

    Arguments that nobody else keeps are let go of as a function in C lets go of them, the first one first; Python would
    begin with the last one.
    """

    def chosen(*given: Any, **kwargs: Any) -> Any:
        args = list(given)
        del given
        result = (ours if gpu.here() else original)(*args, **kwargs)
        while args:
            args.pop(0)
        return result

    chosen.__name__ = getattr(original, "__name__", "chosen")
    chosen.__doc__ = original.__doc__
    return chosen


def _keep_queues(patches: Patches) -> None:
    """Restore the queue of calls for the initialisation of CUDA (seeds, mostly)."""
    queued = list(torch.cuda._queued_calls)
    tracker = torch.cuda._lazy_seed_tracker
    seeding = list(tracker.get_calls())

    def take_back() -> None:
        torch.cuda._queued_calls[:] = queued
        if list(tracker.get_calls()) != seeding:
            tracker.call_order[:] = []
            tracker.manual_seed_all_cb = tracker.manual_seed_cb = None

    patches.afterwards(take_back)


def _renew_detection(patches: Patches) -> None:
    """Make diffusers detect the accelerator again, both on entering and on leaving."""
    from profiler.libraries.hooks import device_caches

    for forget in device_caches():
        patches.afterwards(forget)
        forget()


def _functions(gpu: Device) -> dict[str, Callable[..., Any]]:
    """Return the replacements of `torch.cuda` functions, by name."""
    return {
        **_identity(gpu),
        **_memory(gpu),
        **_raw_memory(gpu),
        **_ordering(gpu),
    }


def _identity(gpu: Device) -> dict[str, Callable[..., Any]]:
    spec = gpu.spec
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: (
            spec.has_kernels_since(8, 0) or including_emulation
        ),
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "device_of": lambda obj: nullcontext(),
        "get_device_name": lambda device=None: gpu.reveal().name,
        "get_device_capability": lambda device=None: spec.compute_capability,
        "get_device_properties": lambda device=None: _properties(gpu),
        "get_arch_list": lambda: [spec.architecture],
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "seed": lambda: None,
        "seed_all": lambda: None,
        "initial_seed": lambda: 0,
        "get_rng_state": lambda device="cuda": torch.zeros(_RNG_STATE_BYTES, dtype=torch.uint8),
        "set_rng_state": lambda new_state, device="cuda": None,
        "ipc_collect": lambda: None,
        "is_current_stream_capturing": lambda: False,
    }


def _memory(gpu: Device) -> dict[str, Callable[..., Any]]:
    allocator = gpu.allocator

    def set_fraction(fraction: float, device: Any = None) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
        allocator.segments.allowed_bytes = int(gpu.capacity_bytes * fraction)

    def free_and_total(device: Any = None) -> tuple[int, int]:
        gpu.reveal()
        return gpu.free_bytes, gpu.capacity_bytes

    return {
        "memory_allocated": lambda device=None: allocator.allocated_bytes,
        "max_memory_allocated": lambda device=None: allocator.peak_bytes,
        "memory_reserved": lambda device=None: allocator.reserved_bytes,
        "max_memory_reserved": lambda device=None: allocator.peak_reserved_bytes,
        "memory_stats": lambda device=None: allocator_report.flat_stats(allocator),
        "memory_stats_as_nested_dict": lambda device=None: allocator_report.nested_stats(allocator),
        # Given an index, torch's own does not need the type of `torch.cuda.device`, which is replaced.
        "memory_summary": lambda device=None, abbreviated=False: _summary(0, abbreviated),
        "mem_get_info": free_and_total,
        "reset_peak_memory_stats": lambda device=None: allocator.reset_peak(),
        "reset_max_memory_allocated": lambda device=None: allocator.reset_peak(),
        "reset_max_memory_cached": lambda device=None: allocator.reset_peak(),
        "reset_accumulated_memory_stats": lambda device=None: allocator.reset_accumulated(),
        "empty_cache": gpu.empty_cache,
        "host_memory_stats_as_nested_dict": gpu.host.pinned.stats,
        "reset_peak_host_memory_stats": gpu.host.pinned.reset_peak,
        "reset_accumulated_host_memory_stats": gpu.host.pinned.reset_accumulated,
        "set_per_process_memory_fraction": set_fraction,
        "get_per_process_memory_fraction": lambda device=None: (
            (allocator.segments.allowed_bytes or gpu.capacity_bytes) / gpu.capacity_bytes
        ),
    }


def _snapshots(history: History) -> dict[str, Callable[..., Any]]:
    return {"memory_snapshot": lambda mempool_id=None, include_traces=True: history.segments()}


def _raw_memory(gpu: Device) -> dict[str, Callable[..., Any]]:
    """Return the functions that allocate memory without a tensor, which stays until it is freed."""
    held: dict[int, Block] = {}

    def allocate(size: int, device: Any = None, stream: Any = None) -> int:
        number = gpu.clock.current if stream is None else getattr(stream, "cuda_stream", stream)
        block = gpu.allocate(size, number)
        if block is None:
            return 0
        held[block.address] = block
        return block.address

    def delete(mem_ptr: int) -> None:
        if mem_ptr:
            gpu.allocator.free(held.pop(mem_ptr))

    return {
        "caching_allocator_alloc": allocate,
        "caching_allocator_delete": delete,
        "get_allocator_backend": lambda: "native",
    }


def _ordering(gpu: Device) -> dict[str, Callable[..., Any]]:
    return {
        "synchronize": lambda device=None: gpu.clock.join_all(),
        "current_stream": lambda device=None: gpu.current_stream,
        "default_stream": lambda device=None: gpu.default_stream,
        "stream": lambda stream: stream if stream is not None else nullcontext(),
        "set_stream": gpu.set_stream,
    }


def _accelerator_functions(gpu: Device) -> dict[str, Callable[..., Any]]:
    memory = _memory(gpu)
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "set_device_index": lambda device: None,
        "set_device_idx": lambda device: None,
        "device_index": lambda device: nullcontext(),
        "current_stream": lambda device=None: gpu.current_stream,
        "set_stream": gpu.set_stream,
        "synchronize": lambda device=None: gpu.clock.join_all(),
        "get_memory_info": memory["mem_get_info"],
        "empty_host_cache": gpu.host.pinned.empty_cache,
        **{
            name: memory[name]
            for name in (
                "empty_cache",
                "memory_stats",
                "memory_allocated",
                "max_memory_allocated",
                "memory_reserved",
                "max_memory_reserved",
                "reset_peak_memory_stats",
                "reset_accumulated_memory_stats",
            )
        },
    }


def _properties(gpu: Device) -> SimpleNamespace:
    spec = gpu.reveal()
    return SimpleNamespace(
        name=spec.name,
        major=spec.compute_capability[0],
        minor=spec.compute_capability[1],
        total_memory=gpu.capacity_bytes,
        multi_processor_count=spec.multi_processor_count,
        L2_cache_size=spec.l2_cache_bytes,
        is_integrated=int(spec.unified_memory),
        is_multi_gpu_board=0,
        warp_size=spec.warp_size,
        gcnArchName=spec.gcn_architecture or spec.architecture,
        pci_bus_id=os.getpid() % 256,
    )
