"""Operators that a virtual GPU does not follow: on tensors of other layouts, and under switches for other kernels.

The former are refused in a sentence, the latter reported as assumptions, if they are on when an operator runs first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from profiler.errors import InputError
from profiler.virtual.operators.rules import name_of, rule_of
from profiler.virtual.tensor import aten

if TYPE_CHECKING:
    from profiler.virtual.device import Device
    from profiler.virtual.workspaces import Workspace

MODE = "mode"
"""The subject of the assumption made if torch's switches select other kernels."""

_OTHER_LAYOUTS = ("nested", "sparse", "mkldnn")
_CONVOLUTIONS = (aten.convolution.default, aten._convolution.default)
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


def refuse_layout(func: Any) -> None:
    """Raise InputError for an operator on tensors with a layout that is not followed."""
    name = func._schema.name
    for layout in _OTHER_LAYOUTS if func.namespace == "aten" else ():
        if layout in name:
            raise InputError(
                f"a virtual GPU cannot follow {layout} tensors ({name}): leave out what makes them"
            )


def tell_modes(gpu: Device, func: Any, dtype: torch.dtype) -> None:
    """Record which of torch's switches select another kernel than the modelled one."""
    switches = torch.backends.cudnn
    if torch.are_deterministic_algorithms_enabled():
        gpu.values.assume(MODE, "deterministic algorithms take what the others take")
    if func in _CONVOLUTIONS and not switches.enabled:
        gpu.values.assume(MODE, "convolutions run by cuDNN, although it is switched off")
    elif func in _CONVOLUTIONS and switches.benchmark:
        gpu.values.assume(MODE, "cuDNN takes the workspaces that it takes without benchmarks")
    if func in _PRODUCTS and dtype == torch.float32 and _in_tf32():
        gpu.values.assume(MODE, "products in TF32 take as long as in single precision")


def _in_tf32() -> bool:
    return torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32"


def tell_unknown(gpu: Device, func: Any) -> None:
    """Record an operator without a rule."""
    if rule_of(func) is None:
        effect = f"{name_of(func)} takes no memory beside inputs and outputs"
        gpu.values.assume("operator", effect)


def tell_source(gpu: Device, workspace: Workspace) -> None:
    """Note who says what a convolution takes beside its tensors."""
    if not gpu.spec.has_cudnn:
        gpu.values.assume(
            "convolutions", "what they take beside their tensors, between nothing and columns"
        )
    elif workspace.source:
        gpu.values.assume("cudnn", f"{workspace.source} says what convolutions take")
    else:
        gpu.values.assume("rule", "what convolutions take, by rule")
