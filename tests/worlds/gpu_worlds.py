"""The tracer's way on a real GPU without one: a virtual GPU answers torch's public calls, and nothing tells more.

Whatever the measured way sees must then be what the model says. `MeasuredReader` is given the virtual GPU's host clock,
so that times can be compared too, and the class of its tensors, whose methods are not `torch.Tensor`'s.
"""

from __future__ import annotations

import torch
from replay_worlds import FAMILIES

from profiler.libraries.placing import enable_mode
from profiler.tracing import Trace
from profiler.tracing.measured.reader import MeasuredReader
from profiler.virtual import VirtualGPU
from profiler.virtual.tensor import VirtualTensor
from profiler.virtual.torch_api.functions import active_gpu


def measured_reader():
    """Return the reader of a real GPU, for the virtual one that is active."""
    clock = active_gpu().clock
    return MeasuredReader((torch.Tensor, VirtualTensor), lambda: clock.host)


def tiny(family):
    """Return a tiny pipeline of a family in half precision, and the arguments of its call."""
    pipe, call = FAMILIES[family]()
    for name in ("unet", "transformer", "controlnet", "vae"):
        if hasattr(pipe, name):
            getattr(pipe, name).to(torch.float16)
    pipe.set_progress_bar_config(disable=True)
    return pipe, call


def traced_as(reader, family, mode, *, calls=2, steps=3, recorded=False):
    """Return the profile of a tiny pipeline in a mode, set-up included; `recorded`: somebody has torch record."""
    with VirtualGPU("rtx-4090", replay=False):
        if recorded:
            torch.cuda.memory._record_memory_history("all", context=None)
        pipe, call = tiny(family)
        with Trace(pipe, {}, reader) as t:
            enable_mode(pipe, mode)
            for _ in range(calls):
                pipe(num_inference_steps=steps, **call)
        assert torch._C._cuda_isHistoryEnabled() == recorded
        return t.profile
