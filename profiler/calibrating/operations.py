"""The convolutions, matrix products and attentions that a pipeline runs, recorded in one run on the virtual GPU.

An operation is an operator with descriptions of tensors in place of tensors, so that it can be rebuilt on any GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from profiler.patching import Patches
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.sizing.call_arguments import call_arguments, refusals_as_input_errors
from profiler.tracing import profile_pipeline
from profiler.units import TIB
from profiler.virtual import VirtualGPU
from profiler.virtual.operators.signatures import signature

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec
    from profiler.sizing.scenario import Scenario

STEPS = 2
"""Denoise steps of the run: the second may differ from the first, a third does not differ from the second."""

_SPREAD = 0.02  # standard deviation of the random fill; small, so that half precision stays finite


@dataclass(frozen=True)
class TensorLike:
    """A description of a tensor, from which one of the same kind can be made."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: str  # "cuda" or "cpu"

    def make(self) -> torch.Tensor:
        """Return such a tensor, filled with small random numbers, or with zeros for integers."""
        reach = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        count = 0 if 0 in self.shape else 1 + reach
        flat = torch.zeros(count, dtype=self.dtype, device=self.device)
        if self.dtype in (torch.float16, torch.bfloat16, torch.float32):
            flat.normal_(0.0, _SPREAD)
        return flat.as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Operation:
    """One operator and its arguments, with a `TensorLike` in place of each tensor."""

    signature: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def made(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with real tensors in them."""
        args, kwargs = tree_map(
            lambda leaf: leaf.make() if isinstance(leaf, TensorLike) else leaf,
            (self.args, self.kwargs),
        )
        return tuple(args), dict(kwargs)


def operations_of(scenario: Scenario, spec: GpuSpec) -> dict[str, Operation]:
    """Return the distinct operations of one call of the scenario's pipeline on `spec`, by signature.

    The GPU's memory plays no part, but its architecture does: it determines which attention runs.

    Raises:
        InputError: if the pipeline cannot be built, or refuses the call.
    """
    with VirtualGPU(spec.with_capacity(TIB)) as gpu, quiet(), recorded(gpu) as found:
        pipe = load_pipeline(scenario.model, dtype=scenario.dtype)
        arguments = call_arguments(pipe, replace(scenario, steps=scenario.steps or STEPS))
        with refusals_as_input_errors(pipe):
            profile_pipeline(pipe, mode=scenario.mode, **arguments)
    return found


@contextmanager
def recorded(gpu: VirtualGPU) -> Iterator[dict[str, Operation]]:
    """Yield a dictionary that collects the operations as `gpu` meets them for the first time."""
    found: dict[str, Operation] = {}
    learn = gpu.operators.learn

    def learn_and_record(func: Any, args: Any, kwargs: dict[str, Any], tensors: Any) -> Any:
        entry = learn(func, args, kwargs, tensors)
        if entry.on_gpu and func._overloadpacket in flop_registry:
            operation = _operation(func, args, kwargs)
            found.setdefault(operation.signature, operation)
        return entry

    with Patches() as patches:
        patches.replace(gpu.operators, "learn", learn_and_record)
        yield found


def _operation(func: Any, args: Any, kwargs: dict[str, Any]) -> Operation:
    def described(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape, stride = tuple(leaf.shape), tuple(leaf.stride())
        return TensorLike(shape, stride, leaf.dtype, leaf.device.type)

    return Operation(
        signature(func, args),
        func,
        tuple(tree_map(described, tuple(args))),
        {name: tree_map(described, value) for name, value in kwargs.items()},
    )
