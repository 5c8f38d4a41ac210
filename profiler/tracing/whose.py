"""The owner of a pipe's tensors: real ones, those of the active virtual GPU, or those of another one.

A pipe can only run where its tensors are: real weights used in a run on a virtual GPU would be computed with on the
CPU, unseen by the virtual GPU.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from profiler.errors import InputError
from profiler.libraries.quantised import inner_tensors
from profiler.virtual.device import Device
from profiler.virtual.tensor import VirtualTensor


def check_traceable(modules: Mapping[str, nn.Module], gpu: Device | None) -> None:
    """Refuse modules that cannot run where the trace runs.

    Args:
        modules: components by name.
        gpu: the active virtual GPU; None for a real one.

    Raises:
        InputError: naming the components and the remedy.
    """
    real, others, _ = _sorted(modules, gpu)
    if gpu is not None and real:
        raise InputError(
            f"{', '.join(real)}: real weights, which no virtual GPU can run; use profile_pipeline(pipe), which runs a "
            "twin of the pipe, or trace one yourself: pipe = gpu.lend(pipe)"
        )
    if others:
        raise InputError(
            f"{', '.join(others)}: weights of a virtual GPU that is not active here; trace inside the VirtualGPU that "
            "the pipe was built in, or use profile_pipeline(pipe), which runs a twin of the pipe"
        )


def belongs_to(gpu: Device, modules: Mapping[str, nn.Module]) -> bool:
    """Tell whether modules were built on this virtual GPU, and not elsewhere.

    Raises:
        InputError: if some were and some were not.
    """
    real, others, own = _sorted(modules, gpu)
    elsewhere = [*real, *others]
    if elsewhere and own:
        raise InputError(
            f"{', '.join(own)}: built on this virtual GPU, and {', '.join(elsewhere)} elsewhere; lend those to it "
            f"first: pipe.{elsewhere[0]} = gpu.lend(pipe.{elsewhere[0]})"
        )
    return not elsewhere


def _sorted(
    modules: Mapping[str, nn.Module], gpu: Device | None
) -> tuple[list[str], list[str], list[str]]:
    """Return the names of modules with real tensors, with those of other virtual GPUs, and with those of `gpu`."""
    real, others, own = [], [], []
    for name, module in modules.items():
        owners = _owners(module)
        if None in owners:
            real.append(name)
        elif owners - {gpu}:
            others.append(name)
        elif owners:
            own.append(name)
    return real, others, own


def _owners(module: nn.Module) -> set[Device | None]:
    """Return the virtual GPUs that own a module's tensors, with None among them for real ones."""
    tensors = (inner for one in module.parameters() for inner in inner_tensors(one))
    return {one.gpu if isinstance(one, VirtualTensor) else None for one in tensors}
