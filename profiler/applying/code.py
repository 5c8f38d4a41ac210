"""A plan as plain code, for people who do not want this package in production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.applying import code_hooks as hooks
from profiler.applying.code_run import head, needs_torch, settings_lines
from profiler.checking.code_words import quoted
from profiler.errors import InputError
from profiler.placements.scheme import (
    COPY,
    PINNED,
    RESIDENT,
    Grouped,
    Scheme,
    Sequential,
    Streamed,
)
from profiler.planning.plan_words import check_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

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

_ALSO = """
# A {name} over the same components is to end its calls as this pipeline does:
# other.maybe_free_model_hooks = pipe.maybe_free_model_hooks
"""

_DISK = """from pathlib import Path

disk_folder = Path("offload")  # each component gets an empty folder of its own in it

"""

_GROUP = """

def group(module, **options):
    from diffusers.hooks import apply_group_offloading

    if hasattr(module, "enable_group_offload"):
        module.enable_group_offload(**options)
    else:
        apply_group_offloading(module, **options)


"""


def code_for(plan: Plan) -> str:
    """Return lines that put `plan` into effect on a variable `pipe` that carries no hooks.

    Raises:
        InputError: if a name in it is none, and would be code of its own.
    """
    try:
        check_plan(plan)
    except ValueError as error:
        raise InputError(f"this plan cannot be written as code: {error}; plan again") from error
    return "".join(_pieces(plan, plan.scheme)).lstrip("\n")


def _pieces(plan: Plan, scheme: Scheme) -> Iterator[str]:
    alike = _alike(plan, scheme)
    yield head(plan)
    if scheme.inside or scheme.swaps or needs_torch(plan):
        yield "import torch\n\n"
    if any(isinstance(how, Grouped) and how.disk for how in scheme.inside.values()):
        yield _DISK
    yield from settings_lines(plan)
    if alike is not None:
        yield _pipelines_call(alike)
    elif not (scheme.hooked(plan.placements) or scheme.inside):
        yield 'pipe.to("cuda")\n'
    else:
        yield from _mixed(plan, scheme)
    others = {one.pipeline_class: None for one in plan.signatures}
    yield from (_ALSO.format(name=name) for name in others if name != plan.pipeline_class)


def _mixed(plan: Plan, scheme: Scheme) -> Iterator[str]:
    """Yield model offload, then what stands in for its hooks, then what is split."""
    yield _model_offload(plan, scheme)
    yield from _hooks(scheme)
    split = {name: how for name in scheme.inside if (how := scheme.split(name)) is not None}
    if any(isinstance(how, Grouped) for how in split.values()):
        yield _GROUP
    if any(isinstance(how, Sequential) for how in split.values()):
        yield "from accelerate import cpu_offload\n\n"
    for name, how in split.items():
        if isinstance(how, Sequential):
            part = f"pipe.{name}"
            yield f"cpu_offload({part}, pipe._offload_device, offload_buffers=len({part}._parameters) > 0)\n"
        else:
            yield f"group({', '.join([f'pipe.{name}', *_options(how, name, 'pipe._offload_device')])})\n"
    if plan.sticky:
        yield _STICKY


def _alike(plan: Plan, scheme: Scheme) -> Grouped | Sequential | None:
    """Return how all components are split, if one call of the pipeline's does it."""
    ways = {scheme.split(name) for name in plan.placements}
    how = next(iter(ways)) if len(ways) == 1 else None
    return None if isinstance(how, Grouped) and how.disk else how


def _pipelines_call(how: Grouped | Sequential) -> str:
    if isinstance(how, Sequential):
        return "pipe._exclude_from_cpu_offload = []\npipe.enable_sequential_cpu_offload()\n"
    options = _options(how, "", 'torch.device("cuda")')
    return f"pipe.enable_group_offload({', '.join(options)})\n"


def _options(how: Grouped, name: str, device: str) -> Iterator[str]:
    yield f"onload_device={device}"
    yield f'offload_type="{"block" if how.blocks else "leaf"}_level"'
    if how.blocks:
        yield f"num_blocks_per_group={how.blocks}"
    for asked, option in (
        (how.stream, "use_stream"),
        (how.record_stream, "record_stream"),
        (how.low_cpu_mem, "low_cpu_mem_usage"),
    ):
        if asked:
            yield f"{option}=True"
    if how.disk:
        yield f"offload_to_disk_path=str(disk_folder / {quoted(name)})"


def _model_offload(plan: Plan, scheme: Scheme) -> str:
    # Named in the sequence, 8-bit components are skipped; excluded, diffusers would try to move them.
    sequence = (*plan.sequence, *plan.immovable)
    excluded = [quoted(name) for name in plan.excluded if name not in plan.immovable]
    lines = [
        f"pipe.model_cpu_offload_seq = {quoted('->'.join(sequence))}",
        f"pipe._exclude_from_cpu_offload = [{', '.join(excluded)}]",
        "pipe.enable_model_cpu_offload()",
    ]
    alone = [
        name
        for name in scheme.inside
        if scheme.streamed(name) is None or scheme.placement(name) == RESIDENT
    ]
    if not alone:
        return "\n".join(lines) + "\n"
    names = ", ".join(map(quoted, alone))
    return "\n".join(
        [
            "# Hidden from model offload, which would refuse these, or move all of them to the card.",
            f"alone = {{name: pipe.components[name] for name in [{names}]}}",
            "vars(pipe).update(dict.fromkeys(alone))",
            "try:",
            *(f"    {line}" for line in lines),
            "finally:",
            "    vars(pipe).update(alone)",
            "",
        ]
    )


def _hooks(scheme: Scheme) -> Iterator[str]:
    streamed = {name: how for name, how in scheme.inside.items() if isinstance(how, Streamed)}
    if not (scheme.swaps or streamed):
        return
    yield hooks.DROP
    pinned = PINNED in scheme.swaps.values()
    if pinned or streamed:
        yield hooks.PACK
    if pinned:
        yield hooks.PINNED
    if streamed:
        yield hooks.STREAMED
    yield "\n\n"
    for name, how in scheme.swaps.items():
        if name not in streamed:
            yield f"replace_hook(pipe.{name}, {_class(how)})\n"
    for name, inside in streamed.items():
        yield _stream(name, inside, _class(scheme.swap(name)), scheme.placement(name))


def _stream(name: str, inside: Streamed, rest: str, placement: str) -> str:
    blocks: Any = inside.resident_blocks
    if placement == RESIDENT:
        hook = f"StreamedOffload({rest}(pipe._offload_device), {blocks}, stays=True)"
        return f"add_hook_to_module(pipe.{name}, {hook})\n"
    return f"replace_hook(pipe.{name}, lambda *given: StreamedOffload({rest}(*given), {blocks}))\n"


def _class(how: str) -> str:
    return {COPY: "DropOffload", PINNED: "PinnedOffload"}.get(how, "DropOffload")
