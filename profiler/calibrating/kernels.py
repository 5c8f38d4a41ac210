"""Measurements of single operations on the GPU at hand: memory beyond arguments and results, and seconds.

They work the same way on a real and on a virtual GPU: all figures come from `torch.cuda`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from profiler.gpus.calibration_table import KernelCost
from profiler.virtual.tensor import aten

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.calibrating.operations import Operation

TIMED_SECONDS = 0.01  # repeat until this much time has passed or MOST_REPEATS is reached
MOST_REPEATS = 20

_BACKENDS = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}  # torch.nn.attention.SDPBackend
# The positions at which the attention operators take their mask and their causal flag.
_ATTENTION = {
    aten._scaled_dot_product_flash_attention.default: (None, 4),
    aten._scaled_dot_product_efficient_attention.default: (3, 6),
    aten._scaled_dot_product_cudnn_attention.default: (3, 6),
}


def measure(operation: Operation) -> KernelCost:
    """Return the cost of one operation.

    The first run does not count: it may load kernels, choose an algorithm and allocate the cuBLAS handle's workspace.
    Memory is what was requested, not what the allocator rounded it to.

    Raises:
        RuntimeError: if the GPU cannot run it; `torch.cuda.OutOfMemoryError` if it does not fit.
    """
    with torch.no_grad():
        args, kwargs = operation.made()

        def run() -> Any:
            return operation.func(*args, **kwargs)

        once = timed(run, repeats=1)
        workspace_bytes = _workspace_bytes(run)
        repeats = min(max(int(TIMED_SECONDS / max(once, 1e-9)), 1), MOST_REPEATS)
        return KernelCost(
            workspace_bytes=workspace_bytes,
            seconds=timed(run, repeats=repeats),
            backend=_backend(operation.func, args, kwargs),
        )


def timed(run: Callable[[], Any], *, repeats: int) -> float:
    """Return the GPU's seconds for one of `repeats` consecutive runs, measured with CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def _workspace_bytes(run: Callable[[], Any]) -> int:
    """Return the peak memory of a run, less what was there before and what the run returned."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    result = run()
    torch.cuda.synchronize()
    stats = torch.cuda.memory_stats()
    del result
    return int(stats["requested_bytes.all.peak"] - stats["requested_bytes.all.current"])


def _backend(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the attention backend that torch would choose; "" if `func` is not attention or the GPU is virtual."""
    if func not in _ATTENTION or type(args[0]) is not torch.Tensor:
        return ""
    mask_at, causal_at = _ATTENTION[func]
    mask = None if mask_at is None else args[mask_at]
    causal = bool(args[causal_at]) if len(args) > causal_at else False
    query, key, value = args[:3]
    choose: Any = torch._fused_sdp_choice
    chosen = choose(query, key, value, mask, 0.0, causal, scale=kwargs.get("scale"))
    return _BACKENDS.get(chosen, str(chosen))
