"""One run of a scenario: its pipeline on a virtual GPU, its calls, and their profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.errors import FindingError
from profiler.record.settings import LOADING, Setting
from profiler.sizing.call_arguments import call_arguments, refusals_as_input_errors
from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec
    from profiler.record.profile import Profile
    from profiler.sizing.scenario import CallOptions, Scenario
    from profiler.tracing import Call
    from profiler.virtual.other_gpus import OtherGpus

Report = Callable[[str], None]
"""A callback that gets one short line for each step."""


def profile_on(
    scenario: Scenario,
    on: GpuSpec,
    *,
    others: OtherGpus | None = None,
    memory_history: bool = False,
    report: Report | None = None,
) -> Profile:
    """Return the profile of a scenario on a GPU in place of its own, compared with others if there are any.

    Raises:
        InputError: as `profile_model`.
    """
    with stage(scenario, on, report, others) as pipe:
        from profiler.tracing import profile_calls

        calls = [call_of(pipe, options) for options in scenario.calls]
        label: dict[str, object] = {
            "model": scenario.model,
            "config": scenario.config,
            "quantization": scenario.quantization,
            "dtypes": scenario.dtypes,
        }
        tell(report, f"running {scenario.model} in mode {scenario.mode.name}")
        loading_bytes = _loading_bytes(scenario, pipe)
        with refusals_as_input_errors(pipe):
            profile = profile_calls(
                pipe, *calls, mode=scenario.mode, label=label, memory_history=memory_history
            )
        if others is not None:
            from profiler.virtual.torch_api.functions import active_gpu

            gpu = active_gpu()
            assert gpu is not None
            others.settle(gpu.allocator, identity_was_read=gpu.identity_was_read)
    loading = scenario.pipeline_options.chosen()
    if loading:
        settings = (*profile.settings, Setting(what=LOADING, value=loading))
        profile = replace(profile, settings=settings)
    return replace(
        profile,
        gpu=replace(profile.gpu, is_default=scenario.gpu is None),
        totals=replace(profile.totals, loading_host_peak_bytes=loading_bytes),
    )


def _loading_bytes(scenario: Scenario, pipe: Any) -> int:
    """Return the host memory that loading the scenario's weights takes at its peak."""
    from profiler.libraries.modules import components_of
    from profiler.pipelines.single_file import loaded_from_file
    from profiler.pipelines.stored_weights import pipeline_loading

    slots, before = loaded_from_file(pipe)
    others = {name: one for name, one in components_of(pipe).items() if name not in slots}
    folder = scenario.config if slots and scenario.config else scenario.model
    return pipeline_loading(folder, others, before=before).peak_bytes


def call_of(pipe: Any, options: CallOptions) -> Call:
    """Return the call that `options` describe."""
    from profiler.tracing import Call

    other = other_pipeline(pipe, options.pipeline_class)
    arguments = call_arguments(other or pipe, options)
    return Call(other, weight=options.weight, cached_prompt=options.cached_prompt, **arguments)


def other_pipeline(pipe: Any, class_name: str) -> Any:
    """Return a pipeline of this class over the components of `pipe`; None if that is its own class."""
    from profiler.pipelines.sibling import sibling

    return None if class_name in ("", type(pipe).__name__) else sibling(pipe, class_name)


@contextmanager
def stage(
    scenario: Scenario, on: GpuSpec, report: Report | None, others: OtherGpus | None = None
) -> Iterator[Any]:
    """Yield the scenario's pipeline, built on a virtual GPU that simulates `on`."""
    tell(report, "importing torch and diffusers")
    import torch

    from profiler.pipelines import load_pipeline
    from profiler.pipelines.quiet import quiet
    from profiler.virtual import VirtualGPU

    with VirtualGPU(on, others=others), quiet():
        tell(report, f"building {scenario.model}")
        pipe = load_pipeline(
            scenario.model,
            dtype=scenario.dtype,
            quantization=scenario.quantization,
            pipeline_class=scenario.pipeline_class,
            options=scenario.pipeline_options,
            config=scenario.config,
        )
        pipe.set_progress_bar_config(disable=True if report is None else None, leave=False)
        try:
            yield pipe
        except torch.OutOfMemoryError as error:
            raise FindingError(
                f"{scenario.model} ran out of memory before its call, on a GPU of "
                f"{format_bytes(on.capacity_bytes)}: {error}"
            ) from error


def tell(report: Report | None, line: str) -> None:
    """Report one step."""
    if report is not None:
        report(line)
