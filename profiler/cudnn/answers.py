"""What is known of a convolution's plans: the package's own answers first, then those of an installed cuDNN."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from profiler.cudnn.gpu_properties import kind_of, properties
from profiler.cudnn.installed import installed_cudnn
from profiler.cudnn.live import live_cudnn
from profiler.cudnn.shipped import VERSION, shipped_chain

if TYPE_CHECKING:
    from profiler.cudnn.convolution import Convolution
    from profiler.gpus.hardware import GpuSpec


class Answer(NamedTuple):
    """What cuDNN says of one convolution on one GPU.

    Attributes:
        workspaces: bytes that the first plan takes, then those of each that takes less than all before it.
        source: who said it, in words.
    """

    workspaces: tuple[int, ...]
    source: str


def answer(
    spec: GpuSpec, convolution: Convolution, *, deterministic: bool, tf32: bool
) -> Answer | None:
    """Return cuDNN's answer; None if nobody has one, or the GPU runs no cuDNN.

    An installed cuDNN of another version than the package's is the one that will run, so it is asked first.

    Args:
        spec: the GPU.
        convolution: the convolution.
        deterministic: what `torch.backends.cudnn.deterministic` says.
        tf32: what `torch.backends.cudnn.allow_tf32` says.
    """
    if not spec.has_cudnn:
        return None
    usual = tf32 or convolution.dtype != "float32"
    installed = installed_cudnn()
    if usual and (installed is None or installed.version == VERSION):
        chain = shipped_chain(kind_of(spec), convolution.text())
        if chain is not None:
            return Answer(chain, "cuDNN {}.{}.{}".format(*VERSION))
    gpu = properties(spec)
    live = live_cudnn() if gpu is not None else None
    if live is None or gpu is None:
        return None
    found = live.workspaces(convolution, gpu, deterministic=deterministic, tf32=tf32)
    return Answer(tuple(found), f"{live.name}, installed here") if found else None
