"""What `tracer_overhead.py` runs on a GPU, each mode in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec

MODES = {
    "resident": Mode(name="resident"),
    "model": Mode(name="model"),
    "group-leaf-stream": Mode(name="group-leaf", stream=True),
    "sequential": Mode(name="sequential"),
}


def measure(
    model: str, mode: str, pairs: int, steps: int, stand_in: GpuSpec | None
) -> dict[str, Any]:
    """Return what the tracer costs in a mode: seconds, host memory, and memory on the device."""
    import above  # noqa: F401  # the next but one is up there
    from at_hand import call_of, pipeline_at_hand
    from tracing_cost import device_memory, host_memory, slowdown

    with pipeline_at_hand(model, stand_in) as pipe:
        arguments = call_of(pipe, {"num_inference_steps": steps})
        enable_mode(pipe, MODES[mode])

        def call() -> None:
            pipe(**arguments)

        found = slowdown(pipe, call, pairs=pairs)
        return found | device_memory(pipe, call) | host_memory(pipe, call)
