"""The memory that a kernel takes besides inputs and outputs: its size, its bounds, and where each comes from.

PyTorch takes the plan that cuDNN's heuristics name first, and the next one whose workspace is smaller if that does not
fit, so a convolution's workspace is *soft*. What a plan takes is what cuDNN itself says of it (`profiler/cudnn`); where
nobody can ask it, the rules below.

Source: `try_configs` and `run_conv_plan` in PyTorch's aten/src/ATen/native/cudnn/Conv_v8.cpp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import torch

from profiler.cudnn.answers import answer
from profiler.cudnn.rules import copied_bytes, estimate
from profiler.gpus.hardware import GpuSpec
from profiler.virtual.convolutions import CUDNN, as_cudnn_takes_it, convolution_backend

if TYPE_CHECKING:
    from profiler.cudnn.convolution import Convolution


class Workspace(int):
    """The bytes that a kernel takes while it runs, with a lower and an upper bound.

    Args:
        nbytes: the predicted bytes.
        least: a lower bound; `nbytes` if not given.
        most: an upper bound; `nbytes` if not given.
        smaller: what the kernel's other plans take, each less than the one before; by default one that takes nothing.
        source: who says so, in words; "" for a rule.
    """

    least: int
    most: int
    smaller: tuple[int, ...]
    source: str

    def __new__(
        cls,
        nbytes: int,
        least: int | None = None,
        most: int | None = None,
        smaller: tuple[int, ...] = (0,),
        source: str = "",
    ) -> Self:
        self = super().__new__(cls, nbytes)
        self.least = nbytes if least is None else least
        self.most = nbytes if most is None else most
        self.smaller = smaller
        self.source = source
        return self


NOTHING = Workspace(0)
_ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


def convolution(spec: GpuSpec, args: tuple[Any, ...], output: torch.Tensor) -> Workspace:
    """Return the workspace of `aten.convolution` with `args` and its output, all on `meta`."""
    if convolution_backend(spec, args) != CUDNN:
        return NOTHING  # see `operators/temporaries.py` for columns
    asked = as_cudnn_takes_it(args, output)
    if asked is None:
        return NOTHING
    flags = torch.backends.cudnn
    if not spec.has_cudnn:
        return _without_cudnn(asked)
    said = answer(spec, asked, deterministic=flags.deterministic, tf32=flags.allow_tf32)
    if said is None:
        return Workspace(*estimate(spec.compute_capability, asked))
    first, *smaller = said.workspaces
    return Workspace(first, smaller=tuple(smaller), source=said.source)


def _without_cudnn(one: Convolution) -> Workspace:
    """Return what a convolution takes with another library (MIOpen), between nothing and the columns of one image.

    MIOpen has solvers that take nothing, solvers that compute on transposed copies, and one that multiplies columns;
    which one runs follows from tables that come with it, which were not asked. Copies are taken for the usual case.
    Source: MIOpen's documentation of its solvers, from knowledge.
    """
    given, output = copied_bytes(one)
    pixels = math.prod(one.output[2:])
    columns = math.prod(one.weight[1:]) * one.groups * pixels * _ELEMENT_BYTES[one.dtype]
    return Workspace(given + output, 0, max(given + output, columns))
