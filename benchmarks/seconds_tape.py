"""What a call asks of a virtual GPU's clock, in order: kernels with their work, copies, calls to the driver."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from profiler.gpus.cost_model import CostModel
from profiler.patching import Patches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.gpus.cost_model import Work
    from profiler.virtual import VirtualGPU

KERNEL, H2D, D2H, ALLOCATE, RELEASE, EMPTY = range(6)
"""What an entry is: a kernel, a copy to or from the GPU, cudaMalloc, cudaFree, or `torch.cuda.empty_cache`."""

_kernel_seconds = CostModel.kernel_seconds


class _Timed(float):
    """Seconds of a kernel that know the number of its work."""

    work = -1


class TapeRecorder:
    """Writes down the calls of one pipeline.

    Args:
        works: the numbers of kernels' works, which it adds to.

    Attributes:
        tape: an entry for each request: what it is, the work's number or the bytes, whether the host's end is pinned,
            and whether the host waits.
    """

    def __init__(self, works: dict[Work, int]) -> None:
        self.tape: list[tuple[int, float, bool, bool]] = []
        self._works = works
        self._running = False

    @contextmanager
    def watching(self, gpu: VirtualGPU, pipe: Any) -> Iterator[None]:
        """Record while the pipeline runs; the GPU must run every forward."""
        segments = gpu.allocator.segments
        with Patches() as patches:
            patches.replace(CostModel, "kernel_seconds", self._kernel_seconds())
            patches.replace(type(pipe), "__call__", self._call(type(pipe).__call__))
            patches.replace(gpu.clock, "launch", self._launch(gpu.clock.launch))
            patches.replace(gpu, "cross", self._cross(gpu.cross))
            patches.replace(
                gpu.allocator, "empty_cache", self._noting(gpu.allocator.empty_cache, EMPTY)
            )
            patches.replace(segments, "driver_called", self._driver(segments.driver_called))
            yield

    def _note(
        self, what: int, value: float = 0, *, pinned: bool = False, waits: bool = False
    ) -> None:
        if self._running:
            self.tape.append((what, value, pinned, waits))

    def _kernel_seconds(self) -> Any:
        def kernel_seconds(model: CostModel, work: Work, flops: Any, rate: float) -> _Timed:
            seconds = _Timed(_kernel_seconds(model, work, flops, rate))
            seconds.work = self._works.setdefault(work, len(self._works))
            return seconds

        return kernel_seconds

    def _call(self, call: Any) -> Any:
        @functools.wraps(call)
        def running(*args: Any, **kwargs: Any) -> Any:
            self._running = True
            try:
                return call(*args, **kwargs)
            finally:
                self._running = False

        return running

    def _launch(self, launch: Any) -> Any:
        def noted(overhead_seconds: float, seconds: float) -> None:
            self._note(KERNEL, getattr(seconds, "work", -1))
            launch(overhead_seconds, seconds)

        return noted

    def _cross(self, cross: Any) -> Any:
        def noted(copy: Any, *, pinned: bool) -> None:
            what = H2D if copy.source == "cpu" else D2H
            waits = not (pinned and copy.non_blocking)
            self._note(what, copy.nbytes, pinned=pinned, waits=waits)
            cross(copy, pinned=pinned)

        return noted

    def _driver(self, called: Any) -> Any:
        def noted(nbytes: int) -> None:
            self._note(ALLOCATE if nbytes > 0 else RELEASE)
            called(nbytes)

        return noted

    def _noting(self, method: Any, what: int) -> Any:
        def noted() -> None:
            self._note(what)
            method()

        return noted
