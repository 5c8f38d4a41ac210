"""A plan as plain diffusers code, for people who do not want this package in production."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.planning.plan import Plan

_STICKY = """
# Stock diffusers sends excluded components to the CPU and back at the end of each call. This keeps them where they are.
from types import MethodType

import torch


def maybe_free_model_hooks(pipe):
    for component in pipe.components.values():
        if hasattr(component, "_reset_stateful_cache"):
            component._reset_stateful_cache()
    for hook in pipe._all_hooks:
        hook.offload()
    torch.cuda.empty_cache()


pipe.maybe_free_model_hooks = MethodType(maybe_free_model_hooks, pipe)
"""


def code_for(plan: Plan) -> str:
    """Return lines that put `plan` into effect on a variable `pipe`."""
    if not plan.scheme.hooked(plan.placements):
        return 'pipe.to("cuda")\n'
    # Named in the sequence, 8-bit components are skipped; excluded, diffusers would try to move them.
    sequence = (*plan.sequence, *plan.immovable)
    excluded = [_quoted(name) for name in plan.excluded if name not in plan.immovable]
    lines = [
        f"pipe.model_cpu_offload_seq = {_quoted('->'.join(sequence))}",
        f"pipe._exclude_from_cpu_offload = [{', '.join(excluded)}]",
        "pipe.enable_model_cpu_offload()",
    ]
    return "\n".join(lines) + "\n" + (_STICKY if plan.sticky else "")


def _quoted(text: str) -> str:
    return f'"{text}"'
