"""Checks of a pipeline before a plan may change it; each failure is one clear line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

from profiler.applying.facts import facts_of
from profiler.applying.hooks.kinds import is_kind
from profiler.applying.hooks.table import OWN_HOOKS
from profiler.checking.given import check_pipeline
from profiler.errors import InputError
from profiler.libraries import hooks as private
from profiler.libraries.modular import is_modular
from profiler.placements.evictions import EVICTIONS, SWAPS
from profiler.placements.rules import violations
from profiler.placements.scheme import MODIFIERS

if TYPE_CHECKING:
    from pathlib import Path

    from profiler.planning import Plan


def check(
    plan: Plan, pipe: Any, *, gpu_id: int | None, device: Any, disk_folder: Path | None
) -> None:
    """Raise, before anything changes, if `plan` cannot be put into effect on `pipe`.

    Raises:
        InputError: if the pipeline is not the plan's, is in a state that model offload refuses, cannot be placed as
            planned, or there is no such device or folder.
    """
    check_pipeline(pipe, to="apply()")
    if not (isinstance(pipe, DiffusionPipeline) or is_modular(pipe)):
        raise InputError(f"a plan is applied to a diffusers pipeline, not to {type(pipe).__name__}")
    if type(pipe).__name__ != plan.pipeline_class:
        raise InputError(
            f"the plan was made for {plan.pipeline_class}, not for {type(pipe).__name__}: "
            "profile this pipeline and plan again"
        )
    _check_components(plan, pipe)
    _check_state(pipe)
    if "fp8" in plan.modifiers:
        _check_castable(pipe)
    _check_placements(plan, pipe)
    _check_folder(plan, disk_folder)
    _check_device(plan, gpu_id, device)


def _check_components(plan: Plan, pipe: DiffusionPipeline) -> None:
    modules = private.modules_of(pipe)
    unknown = [name for name in modules if name not in plan.placements]
    missing = [name for name in plan.placements if name not in modules]
    if unknown or missing:
        problems = [f"the plan does not know {', '.join(unknown)}"] if unknown else []
        problems += [f"the pipeline has no {', '.join(missing)}"] if missing else []
        raise InputError(f"{' and '.join(problems)}: profile this pipeline as it is and plan again")
    names: dict[int, str] = {}
    for name, module in modules.items():
        twin = names.setdefault(id(module), name)
        if twin != name:
            raise InputError(
                f"{twin} and {name} are one module: model offload would hook it twice; "
                "give the pipeline a copy of it"
            )


def _check_placements(plan: Plan, pipe: DiffusionPipeline) -> None:
    named = {*plan.inside, *plan.swaps}
    strange = [
        *sorted(named - set(plan.placements)),
        *(how for how in plan.swaps.values() if how not in SWAPS),
        *(one for one in plan.modifiers if one not in MODIFIERS),
    ]
    if strange:
        raise InputError(
            f"the plan speaks of {', '.join(strange)}, which this program does not know"
        )
    problems = violations(
        plan.scheme,
        facts_of(pipe),
        modifiers=plan.modifiers,
        enables_by_itself=private.enables_by_itself(pipe),
    )
    if problems:
        raise InputError("the plan cannot be applied: " + "; ".join(map(str, problems)))


def _check_castable(pipe: DiffusionPipeline) -> None:
    if any(map(private.is_sequentially_offloaded, private.modules_of(pipe).values())):
        raise InputError(
            "sequential offload is active, which keeps the weights elsewhere, where layerwise casting does not see "
            "them: load the pipeline again without enable_sequential_cpu_offload"
        )


def _check_folder(plan: Plan, folder: Path | None) -> None:
    on_disk = [name for name, inside in plan.scheme.inside.items() if inside.on_disk]
    if not on_disk:
        return
    if folder is None:
        raise InputError(
            f"the plan keeps {', '.join(on_disk)} on disk: say where with disk_folder="
        )
    for name in on_disk:
        own = folder / name
        if own.exists() and (not own.is_dir() or any(own.iterdir())):
            raise InputError(
                f"{own} is not empty, and diffusers would take files there for the weights: give an empty disk_folder"
            )


def _check_state(pipe: DiffusionPipeline) -> None:
    ours = [
        name
        for name, module in private.modules_of(pipe).items()
        if any(is_kind(private.root_hook(module), kind) for kind in OWN_HOOKS)
    ]
    if ours:
        raise InputError(
            f"another plan is in effect on {', '.join(ours)}: undo() it first, or call pipe.remove_all_hooks()"
        )
    grouped = [
        n for n, module in private.modules_of(pipe).items() if private.is_group_offloaded(module)
    ]
    if grouped:
        raise InputError(
            f"group offload is active on {', '.join(grouped)}, and model offload refuses that: "
            "load the pipeline again without enable_group_offload"
        )
    (_check_modular if is_modular(pipe) else _check_offloadable)(pipe)


def _check_modular(pipe: Any) -> None:
    managed = [name for name, one in private.modules_of(pipe).items() if private.is_managed(one)]
    if managed:
        raise InputError(
            f"a ComponentsManager offloads {', '.join(managed)}: call its disable_auto_cpu_offload() first, or give it "
            "plan.as_offload_strategy()"
        )
    if any(map(private.is_sequentially_offloaded, private.modules_of(pipe).values())):
        raise InputError(
            "sequential offload is active: call accelerate.hooks.remove_hook_from_module(part, recurse=True) for "
            "each component first"
        )


def _check_offloadable(pipe: DiffusionPipeline) -> None:
    if private.is_device_mapped(pipe):
        raise InputError(
            f"a device map is active ({pipe.hf_device_map}), and model offload refuses that: "
            "call pipe.reset_device_map() first"
        )
    try:
        private.check_tensor_parallel(pipe)
    except ValueError as error:
        raise InputError(str(error)) from error
    if private.enables_by_itself(pipe) and not private.inner_pipelines(pipe):
        raise InputError(
            f"{type(pipe).__name__} has an enable_model_cpu_offload of its own, which no sequence changes: "
            "it runs under that or pipe.enable_sequential_cpu_offload()"
        )


def _check_device(plan: Plan, gpu_id: int | None, device: Any) -> None:
    if device is None:
        found = torch.accelerator.current_accelerator()
        if found is None:
            raise InputError(
                "torch sees no accelerator to offload from: apply the plan where the GPU is, "
                'or inside `with VirtualGPU("rtx-4090"):`'
            )
        _check_copies(plan, found.type)
        return
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is no device: {str(error).splitlines()[0]}") from error
    if asked.type == "cpu":
        raise InputError(
            "the device is the CPU: model offload needs an accelerator, for example 'cuda'"
        )
    if gpu_id is not None and asked.index is not None:
        raise InputError(
            f"gpu_id={gpu_id} and the index in device={str(asked)!r} say the same thing: give one of them"
        )
    _check_there(asked.type)
    _check_copies(plan, asked.type)


def _check_there(kind: str) -> None:
    """Raise InputError if torch has no device of this kind here."""
    try:
        is_there = torch.get_device_module(kind).is_available()
    except RuntimeError:  # of kinds that are no accelerators, such as "meta"
        is_there = False
    if not is_there:
        raise InputError(f"torch sees no {kind} device here: apply the plan where there is one")


def _check_copies(plan: Plan, kind: str) -> None:
    """Raise InputError if devices of this kind lack page-locked memory or streams of copies, and the plan uses them.

    Torch has neither for `mps`, and both for `xpu`; diffusers asks a backend for its `Stream`, too.
    """
    if kind != "mps" and hasattr(torch.get_device_module(kind), "Stream"):
        return
    pinned = [name for name, how in plan.swaps.items() if EVICTIONS[how].pinned]
    streamed = [name for name, how in plan.scheme.inside.items() if how.on_stream]
    names = list(dict.fromkeys([*streamed, *pinned]))
    if names:
        raise InputError(
            f"{kind} has neither page-locked memory nor streams of copies, and the plan places {', '.join(names)} by "
            "them: plan again with levers='sequential', or 'none'"
        )
