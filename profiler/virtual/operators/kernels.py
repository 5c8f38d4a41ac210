"""The costs of a kernel besides its inputs and outputs: its workspace, the cuBLAS workspace, and time.

- Copies and buffers of its C++: `temporaries.py`. Workspaces of convolutions: `workspaces.py`.
- cuBLAS allocates one workspace per handle and stream with the first matrix product, keeps it, and shares it with
  cuBLASLt. Source: `setWorkspaceForHandle` and `getCUDABlasLtWorkspace` in PyTorch's
  aten/src/ATen/cuda/CublasHandlePool.cpp, read in copies from before and after torch 2.13.0; sizes and sharing follow
  the machine code of its CUDA 13 build.
- Measurements of an operator by `vram calibrate` on this GPU take precedence over any rule
  (`profiler/gpus/calibration.py`).
- Time: what it has to do (`work.py`), by the GPU's cost model (`profiler/gpus/cost_model.py`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from profiler.gpus import calibration
from profiler.gpus.hardware import GpuSpec
from profiler.virtual import workspaces
from profiler.virtual.convolutions import is_without_cudnn
from profiler.virtual.operators.rules import DEFAULT, rule_of
from profiler.virtual.operators.signatures import every_argument, signature
from profiler.virtual.operators.temporaries import steps_of
from profiler.virtual.operators.work import work_of
from profiler.virtual.precision import CONVOLUTIONS, PRODUCTS
from profiler.virtual.steps import Steps
from profiler.virtual.tensor import aten
from profiler.virtual.workspaces import Workspace


class Kernel:
    """One operator with meta arguments, on one GPU.

    Args:
        spec: the GPU that it runs on.
        func: the operator.
        args: its positional arguments, tensors on `meta`.
        kwargs: its keyword arguments.
        result: its return value on `meta`.
    """

    def __init__(
        self,
        spec: GpuSpec,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        self._spec = spec
        self._func = func
        self._args = args
        self._kwargs = kwargs
        self._result = result

    def on(self, spec: GpuSpec) -> Kernel:
        """Return the same operator on another GPU."""
        return Kernel(spec, self._func, self._args, self._kwargs, self._result)

    @cached_property
    def _tensors(self) -> list[torch.Tensor]:
        leaves = tree_leaves((self._args, self._result))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    @cached_property
    def _moved_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def needs_blas_workspace(self) -> bool:
        """True if cuBLAS serves it."""
        return self._func in PRODUCTS or (
            self._func is aten.convolution.default and is_without_cudnn(self._spec, self._args)
        )

    @property
    def is_convolution(self) -> bool:
        """True for a convolution, which takes another plan if its workspace does not fit."""
        return self._func in CONVOLUTIONS

    @property
    def is_measured(self) -> bool:
        """True if a calibration table holds its workspace, so that no rule is needed."""
        return self._measured_bytes is not None

    @cached_property
    def _measured_bytes(self) -> int | None:
        name = self._signature
        return calibration.workspace_bytes(self._spec, name) if name else None

    @cached_property
    def _signature(self) -> str:
        """Its name in calibration tables, which hold convolutions, matrix products and attention; "" for others."""
        counted = self._func._overloadpacket in flop_registry
        return (
            signature(self._func, self._args) if counted and calibration.knows(self._spec) else ""
        )

    def workspace(self) -> Workspace:
        """Return its workspace, with bounds."""
        if self._measured_bytes is not None:
            return Workspace(self._measured_bytes)
        if self.is_convolution:
            return workspaces.convolution(self._spec, self._args, self._result)
        share = (rule_of(self._func) or DEFAULT).share_at_most
        return Workspace(0, most=int(self._moved_bytes * share)) if share else workspaces.NOTHING

    def steps(self) -> Steps:
        """Return what it allocates besides; nothing if its workspace was measured, which holds all of it."""
        if self.is_measured:
            return ()
        every = every_argument(self._func, self._args, self._kwargs)
        return steps_of(self._spec, self._func, every, self._result)

    def seconds(self) -> float:
        """Return the time it takes: as measured on this GPU, else by the GPU's cost model."""
        measured = calibration.kernel_cost(self._spec, self._signature) if self._signature else None
        if measured is not None:
            return float(measured.seconds)
        work = work_of(self._spec, self._func, self._args, self._result, self._moved_bytes)
        rates = self._spec.flops_per_second
        return self._spec.cost.kernel_seconds(work, rates, self._spec.memory_bytes_per_second)
