"""Drift of a pipeline from the state that a plan set up: a LoRA load, another mode, another pipeline's hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.applying.apply import sequence_for
from profiler.applying.hooks.kinds import is_kind
from profiler.applying.hooks.sticky import keeps_excluded
from profiler.applying.hooks.swaps import HOOKS
from profiler.applying.hooks.table import ATTACHMENTS
from profiler.applying.run_differences import differences
from profiler.libraries import hooks as private
from profiler.libraries.modes import DENOISERS
from profiler.placements.scheme import RESIDENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from diffusers import DiffusionPipeline

    from profiler.placements.placement import Placement
    from profiler.planning import Plan


def drift_of(plan: Plan, pipe: DiffusionPipeline) -> tuple[str, ...]:
    """Return one line for each way in which `pipe` is not as `plan` left it."""
    if private.enables_by_itself(pipe):
        return ()  # its inner pipelines hold the hooks, each with its own sequence: only the run can tell
    modules = private.modules_of(pipe)
    whole = {name: module for name, module in modules.items() if plan.scheme.split(name) is None}
    if any(map(private.is_sequentially_offloaded, whole.values())):
        return ("sequential offload is active: something enabled it after the plan",)
    if any(map(private.is_managed, modules.values())):
        return ("a ComponentsManager offloads components: it was enabled after the plan",)
    if any(map(private.is_group_offloaded, whole.values())):
        return ("group offload is active: something enabled it after the plan",)
    return (*_lines(plan, pipe, modules), *_modifier_lines(plan, pipe), *differences(plan, pipe))


def _lines(
    plan: Plan, pipe: DiffusionPipeline, modules: dict[str, torch.nn.Module]
) -> Iterator[str]:
    scheme = plan.scheme
    sequence = "->".join(sequence_for(plan, pipe))
    if scheme.hooked(modules) and getattr(pipe, private.SEQUENCE) != sequence:
        yield f"the sequence is {getattr(pipe, private.SEQUENCE)}, not {sequence}"
    if plan.sticky and scheme.hooked(modules) and not keeps_excluded(pipe):
        yield "excluded components travel at the end of each call: sticky exclusion is off"
    for name, module in modules.items():
        if private.is_left_alone(module):
            continue
        if name not in plan.placements:
            yield f"{name} is new"
        else:
            yield from _component_lines(plan, name, modules)


def _component_lines(plan: Plan, name: str, modules: dict[str, torch.nn.Module]) -> Iterator[str]:
    scheme, module = plan.scheme, modules[name]
    inside, swap = scheme.inside.get(name), scheme.swap(name)
    resident = scheme.placement(name) == RESIDENT
    if inside is not None and (resident or not inside.leaves_rest):
        yield from _inside_lines(name, module, inside, swap)
    elif resident:
        yield from _resident_lines(name, module)
    else:
        expected = modules.get(scheme.predecessors().get(name, ""))
        lines = list(_hook_lines(name, private.chain_on(module), expected))
        yield from lines or _kind_lines(name, module, inside, swap)


def _resident_lines(name: str, module: torch.nn.Module) -> Iterator[str]:
    if private.chain_on(module):
        yield f"{name} carries an offload hook, though the plan keeps it on the GPU"
    elif any(parameter.device.type == "cpu" for parameter in module.parameters()):
        yield f"{name} is on the CPU, though the plan keeps it on the GPU"


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


def _kind_lines(
    name: str, module: torch.nn.Module, inside: Placement | None, swap: str
) -> Iterator[str]:
    """Yield a line if the only hook of a component is not of the plan's kind."""
    if inside is not None:
        yield from _inside_lines(name, module, inside, swap)
    elif not is_kind(private.root_hook(module), HOOKS[swap]):
        yield f"{name} does not leave the GPU by {swap}, as the plan says"


def _inside_lines(
    name: str, module: torch.nn.Module, inside: Placement, swap: str
) -> Iterator[str]:
    return ATTACHMENTS[inside.kind].drift(name, module, inside, swap)


def _modifier_lines(plan: Plan, pipe: DiffusionPipeline) -> Iterator[str]:
    flags = {"vae-tiling": "use_tiling", "vae-slicing": "use_slicing"}
    for modifier, flag in flags.items():
        if modifier in plan.modifiers and not getattr(getattr(pipe, "vae", None), flag, False):
            yield f"the VAE's {flag} is off, though the plan has it on"
    if "fp8" not in plan.modifiers:
        return
    for name in DENOISERS:
        module = pipe.components.get(name)
        if hasattr(module, "enable_layerwise_casting") and not any(
            map(private.is_layerwise_cast, module.modules())
        ):
            yield f"{name} is not stored as float8"
