"""`torch.compile`, and operators that take functions, on a virtual GPU: nothing is compiled there.

Compiled code runs as it was written, with an assumption that says so, since a compiler fuses what is allocated here. Of
the operators that take functions, those that PyTorch can run uncompiled are run that way, `flex_attention` and `cond`
among them; the others are refused. One case is modelled as compiled: `torch.compile(flex_attention)` makes an output
and two numbers per query, while the plain one holds all scores in single precision.

Source: torch/_higher_order_ops/*.py and torch/_inductor/kernel/flex/flex_attention.py of 2.13.0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from profiler.errors import InputError
from profiler.libraries.compiled import COMPILE, RUNS_EAGERLY
from profiler.patching import Patches
from profiler.virtual.tensor import aten

if TYPE_CHECKING:
    from profiler.virtual.device import Device

_COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd
_DYNAMO = "torch._dynamo.eval_frame"
_FLEX = "torch.nn.attention.flex_attention"
# They pass a part of themselves to the compiler, to run it uncompiled.
_COMPILE_THEMSELVES = (_FLEX, "torch._higher_order_ops")
# Their replacements are written in terms of torch's own operators.
_WRITTEN_OUT = frozenset(
    {"associative_scan", "flex_attention", "hints_wrapper", "map_impl", "out_dtype", "while_loop"}
)
_UNCOMPILED = (COMPILE, RUNS_EAGERLY)


class Compiling:
    """Serves compiled code and operators that take functions for one virtual GPU."""

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu
        self._fused = False  # whether a compiled `flex_attention` is running

    def install(self, patches: Patches) -> None:
        """Make `torch.compile` return its argument, and make code that is already compiled run as it is written."""
        patches.replace(torch, "compile", self._compile(torch.compile))
        dynamo = sys.modules.get(_DYNAMO)
        if dynamo is not None:
            chosen = self._callback(dynamo._callback_from_stance)
            patches.replace(dynamo, "_callback_from_stance", chosen)
            # Otherwise code that was compiled with `fullgraph` misses its graph.
            patches.replace(dynamo, "_stance", dynamo.DynamoStance("force_eager"))

    def _compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def compile_(model: Any = None, **options: Any) -> Any:
            if not self._gpu.here() or options.get("disable"):
                return original(model, **options)
            return self._uncompiled if model is None else self._uncompiled(model)

        return compile_

    def _uncompiled(self, given: Any) -> Any:
        flex = sys.modules.get(_FLEX)
        if flex is not None and given is flex.flex_attention:
            return self._flex(given)
        if not str(getattr(given, "__module__", "")).startswith(_COMPILE_THEMSELVES):
            self._gpu.values.assume(*_UNCOMPILED)
        return given

    def _callback(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the callback by which Dynamo decides how to compile a function: not at all."""

        def chosen(callback: Any) -> Any:
            if not self._gpu.here():
                return original(callback)
            if callback:
                self._gpu.values.assume(*_UNCOMPILED)
            return None

        return chosen

    def _flex(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def flex_attention(*args: Any, **kwargs: Any) -> Any:
            before, self._fused = self._fused, True
            try:
                return original(*args, **kwargs)
            finally:
                self._fused = before

        return flex_attention

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator that takes functions.

        Raises:
            InputError: for one that cannot be followed.
        """
        name = func.name()
        if name != "cond" and name not in _WRITTEN_OUT:
            raise InputError(
                f"a virtual GPU cannot follow torch.ops.higher_order.{name}: leave out what calls it"
            )
        with self._gpu.mode():
            if name == "cond":
                return _chosen(*args, **kwargs)
            if self._fused and name == "flex_attention":
                return _fused_attention(*args[:3])
            return func.py_kernels[_COMPOSITE](*args, **kwargs)


def _chosen(pred: Any, true_fn: Any, false_fn: Any, operands: Any) -> Any:
    return true_fn(*operands) if pred else false_fn(*operands)


def _fused_attention(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Return the output, the log-sum-exp and the largest scores that one kernel makes of `[B, H, S, D]`.

    The share of the scores that a mask leaves out is unknown; the time is that of all of them.
    """
    # The plain kernel, not the one of `scaled_dot_product_attention`, which may split the keys.
    turned = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    out, logsumexp = aten._flash_attention_forward.default(
        *turned, None, None, query.shape[2], key.shape[2], 0.0, False, False
    )[:2]
    out = out.transpose(1, 2)
    if value.shape[-1] != query.shape[-1]:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
    return out, logsumexp, torch.empty_like(logsumexp)
