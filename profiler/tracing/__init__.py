"""The tracer: sees accelerate's and diffusers' hooks, asks torch for memory figures, and returns a `Profile`."""

from profiler.tracing.profiling import profile_pipeline
from profiler.tracing.tracer import Trace, trace

__all__ = ["Trace", "profile_pipeline", "trace"]
