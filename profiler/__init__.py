"""Memory profiles of diffusers pipelines, and the best offload plan for a GPU.

Importing this package is fast and does not import torch: each public name loads the module that defines it when it is
first used.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.applying.apply import apply
    from profiler.applying.verify import verify
    from profiler.errors import FindingError, InputError, ProfilerError
    from profiler.gpus.hardware import GpuSpec, gpu_spec, gpu_specs
    from profiler.libraries.modes import Mode
    from profiler.pipelines import catalogue, load_pipeline
    from profiler.planning import Plan, plan_offload
    from profiler.record.profile import Profile
    from profiler.sizing.every_gpu import OnGpu, profile_on_gpus
    from profiler.sizing.fit import Largest, largest_fitting
    from profiler.sizing.scenario import Scenario
    from profiler.sizing.size import plan_model, profile_model, verify_plan
    from profiler.tracing import Call, profile_calls, profile_pipeline, trace
    from profiler.virtual import VirtualGPU

__version__ = "0.1.0"

__all__ = [
    "Call",
    "FindingError",
    "GpuSpec",
    "InputError",
    "Largest",
    "Mode",
    "OnGpu",
    "Plan",
    "Profile",
    "ProfilerError",
    "Scenario",
    "VirtualGPU",
    "__version__",
    "apply",
    "catalogue",
    "gpu_spec",
    "gpu_specs",
    "largest_fitting",
    "load_pipeline",
    "plan_model",
    "plan_offload",
    "profile_calls",
    "profile_model",
    "profile_on_gpus",
    "profile_pipeline",
    "trace",
    "verify",
    "verify_plan",
]

_HOMES = {
    "profiler.applying": ("apply", "verify"),
    "profiler.errors": ("FindingError", "InputError", "ProfilerError"),
    "profiler.gpus.hardware": ("GpuSpec", "gpu_spec", "gpu_specs"),
    "profiler.libraries.modes": ("Mode",),
    "profiler.pipelines": ("catalogue", "load_pipeline"),
    "profiler.planning": ("Plan", "plan_offload"),
    "profiler.record.profile": ("Profile",),
    "profiler.sizing.every_gpu": ("OnGpu", "profile_on_gpus"),
    "profiler.sizing.fit": ("Largest", "largest_fitting"),
    "profiler.sizing.scenario": ("Scenario",),
    "profiler.sizing.size": ("plan_model", "profile_model", "verify_plan"),
    "profiler.tracing": ("Call", "profile_calls", "profile_pipeline", "trace"),
    "profiler.virtual": ("VirtualGPU",),
}
_HOME_OF_NAME = {name: home for home, names in _HOMES.items() for name in names}
_RENAMED = {"Card": "GpuSpec", "card": "gpu_spec", "cards": "gpu_specs"}
"""Former names, importable for one release."""


def __getattr__(name: str) -> object:
    """Load a public name on first use, and keep it; a former name warns and gives what it is called now."""
    if name in _RENAMED:
        now = _RENAMED[name]
        message = f"profiler.{name} is now profiler.{now}; the old name goes with the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return globals()[now] if now in globals() else __getattr__(now)
    home = _HOME_OF_NAME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found: object = getattr(import_module(home), name)
    except ImportError as error:
        told = import_module("profiler.libraries.private_names").told_of(error)
        if told is None:
            raise
        raise import_module("profiler.errors").ProfilerError(told) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
