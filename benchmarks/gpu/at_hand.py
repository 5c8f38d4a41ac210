"""The GPU at hand: what it is, and a pipeline for it, the real GPU's or a dry run's."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from profiler.calibrating.machine import gpu_at_hand, versions
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.pipelines.sensible_call import sensible_call
from profiler.tracing import trace
from profiler.units import TIB
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.gpus.hardware import GpuSpec
    from profiler.record.profile import Profile


def about_this_machine() -> dict[str, Any]:
    """Return the GPU at hand and the versions beside it."""
    import accelerate
    import diffusers
    import transformers

    spec = gpu_at_hand()
    return {
        "card": spec.name,
        "compute_capability": list(spec.compute_capability),
        "multi_processor_count": spec.multi_processor_count,
        "total_memory_bytes": spec.capacity_bytes,
        "versions": {
            **versions(),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
    }


@contextmanager
def pipeline_at_hand(model: str, stand_in: GpuSpec | None) -> Iterator[Any]:
    """Yield a pipeline on the CPU, with random weights for the real GPU and without any for a dry run's."""
    if stand_in is None:
        pipe = load_pipeline(model, weights="random")
        pipe.set_progress_bar_config(disable=True)
        yield pipe
        return
    with VirtualGPU(stand_in), quiet():
        pipe = load_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        yield pipe


def run_without_limit(model: str, call: dict[str, Any], mode: str, spec: GpuSpec) -> Profile:
    """Return the profile of a call on a virtual GPU like `spec` with memory without end."""
    with VirtualGPU(spec.with_capacity(TIB)), quiet():
        pipe = load_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        with trace(pipe, label={"model": model, "call": call}) as tracing:
            enable_mode(pipe, Mode(name=mode))
            pipe(**call_of(pipe, call))
    return tracing.profile


def call_of(pipe: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call: those given, and sensible ones where the pipeline cannot do without."""
    return sensible_call(pipe, given)[0]


@contextmanager
def reserving_at_most(limit_bytes: int) -> Iterator[None]:
    """Hold torch's allocator to so many bytes, on the real GPU by a fraction of what the driver reports."""
    capacity_bytes = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(limit_bytes / capacity_bytes, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
