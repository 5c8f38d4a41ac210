"""The tracer: watches the hooks of accelerate and diffusers, reads torch's memory figures, and returns a `Profile`."""

from profiler.tracing.profiling import Call, profile_calls, profile_pipeline
from profiler.tracing.tracer import Trace, trace

__all__ = ["Call", "Trace", "profile_calls", "profile_pipeline", "trace"]
