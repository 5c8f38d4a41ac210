"""What of a pipeline's state is no longer what a plan set up: a LoRA load, another mode, another pipeline's hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import diffusers_private as private
from profiler.applying.apply import sequence_for
from profiler.applying.sticky import keeps_excluded

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from diffusers import DiffusionPipeline

    from profiler.planning import Plan


def drift_of(plan: Plan, pipe: DiffusionPipeline) -> tuple[str, ...]:
    """Return one line for each way in which `pipe` is not as `plan` left it."""
    if private.enables_by_itself(pipe):
        return ()  # its inner pipelines hold the hooks, each with a sequence of its own: the run alone tells
    modules = private.modules_of(pipe)
    if any(map(private.is_sequentially_offloaded, modules.values())):
        return ("sequential offload is active: something enabled it after the plan",)
    if any(map(private.is_group_offloaded, modules.values())):
        return ("group offload is active: something enabled it after the plan",)
    return tuple(_lines(plan, pipe, modules))


def _lines(
    plan: Plan, pipe: DiffusionPipeline, modules: dict[str, torch.nn.Module]
) -> Iterator[str]:
    sequence = "->".join(sequence_for(plan, pipe))
    if getattr(pipe, private.SEQUENCE) != sequence:
        yield f"the sequence is {getattr(pipe, private.SEQUENCE)}, not {sequence}"
    if plan.sticky and not keeps_excluded(pipe):
        yield "excluded components travel at the end of each call: sticky exclusion is off"
    wanted = plan.scheme.predecessors()
    for name, module in modules.items():
        if private.is_left_alone(module):
            continue
        if name not in plan.placements:
            yield f"{name} is new"
        elif plan.scheme.placement(name) == "resident":
            yield from _resident_lines(name, module)
        else:
            expected = modules.get(wanted.get(name, ""))
            yield from _hook_lines(name, private.chain_on(module), expected)


def _resident_lines(name: str, module: torch.nn.Module) -> Iterator[str]:
    if private.chain_on(module):
        yield f"{name} carries an offload hook, though the plan keeps it on the card"
    elif any(parameter.device.type == "cpu" for parameter in module.parameters()):
        yield f"{name} is on the CPU, though the plan keeps it on the card"


def _hook_lines(
    name: str,
    chain: tuple[torch.nn.Module | None, ...],
    expected: torch.nn.Module | None,
) -> Iterator[str]:
    if not chain:
        yield f"{name} carries no offload hook: the plan is not in effect"
    elif len(chain) > 1:
        yield f"{name} carries {len(chain)} offload hooks: another pipeline shares it"
    elif chain[0] is not expected:
        yield f"{name}'s hook evicts another component than the plan's"
