"""A virtual CUDA GPU: real pipelines and real offload hooks run on it without hardware and without weights."""

from profiler.virtual.gpu import VirtualGPU

__all__ = ["VirtualGPU"]
