"""A plan as plain code, for those who do not want this package in production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.applying.code_run import head, needs_torch, settings_lines
from profiler.applying.hook_source import source_of
from profiler.applying.hooks.swaps import HOOKS, RESTS, hang_up, put_hook
from profiler.applying.hooks.table import ATTACHMENTS, TO_ALL
from profiler.checking.code_words import quoted
from profiler.errors import InputError
from profiler.placements.scheme import RESIDENT, Scheme
from profiler.planning.plan_words import check_plan
from profiler.record.modular import is_modular_class

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.placements.placement import Placement
    from profiler.planning.plan import Plan

_HOOKS = """
# Hooks for what diffusers cannot do: the source of those that vram-profiler's `plan.apply(pipe)` hangs up.
"""

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
{settle}

pipe.maybe_free_model_hooks = MethodType(maybe_free_model_hooks, pipe)
"""

_SETTLE = """\
    for component in pipe.components.values():
        if hasattr(getattr(component, "_hf_hook", None), "settle"):
            component._hf_hook.settle()  # frees a block that was fetched and not called
"""

_ALSO = """
# A {name} over the same components is to end its calls as this pipeline does:
# other.maybe_free_model_hooks = pipe.maybe_free_model_hooks
"""

_DISK = """from pathlib import Path

disk_folder = Path("offload")  # each component gets an empty folder of its own in it

"""


def code_for(plan: Plan) -> str:
    """Return lines that put `plan` into effect on a variable `pipe` that carries no hooks.

    Raises:
        InputError: if a name in the plan is not a name, and would be other code.
    """
    try:
        check_plan(plan)
    except ValueError as error:
        raise InputError(f"this plan cannot be written as code: {error}; plan again") from error
    return "".join(_pieces(plan, plan.scheme)).lstrip("\n")


def _pieces(plan: Plan, scheme: Scheme) -> Iterator[str]:
    alike = _alike(plan, scheme)
    yield head(plan)
    if _needs_hooks(scheme):
        yield "from __future__ import annotations\n\n"
    if scheme.inside or scheme.swaps or needs_torch(plan):
        yield "import torch\n\n"
    if any(how.on_disk for how in scheme.inside.values()):
        yield _DISK
    yield from settings_lines(plan)
    if is_modular_class(plan.pipeline_class) and scheme.inside:
        yield from _modular(plan, scheme)
    elif alike is not None:
        yield TO_ALL[alike.kind].code_for_all(alike)
    elif not (scheme.hooked(plan.placements) or scheme.inside):
        yield 'pipe.to("cuda")\n'
    else:
        yield from _mixed(plan, scheme)
    others = {one.pipeline_class: None for one in plan.signatures}
    yield from (_ALSO.format(name=name) for name in others if name != plan.pipeline_class)


def _modular(plan: Plan, scheme: Scheme) -> Iterator[str]:
    """Yield the lines that place the components of a modular pipeline one by one: it has no model offload."""
    whole = [quoted(name) for name in plan.placements if name not in scheme.inside]
    yield 'device = torch.device("cuda")\n'
    if whole:
        yield f"for name in [{', '.join(whole)}]:\n    pipe.components[name].to(device)\n"
    for piece in (*_hooks(scheme), *_split(scheme)):
        yield piece.replace("pipe._offload_device", "device")


def _mixed(plan: Plan, scheme: Scheme) -> Iterator[str]:
    """Yield the lines of model offload, then of the hooks that replace its own, then of split components."""
    yield _model_offload(plan, scheme)
    yield from _hooks(scheme)
    yield from _split(scheme)
    if plan.sticky:
        yield _STICKY.format(settle=_SETTLE if _stays_streamed(scheme) else "")


def _split(scheme: Scheme) -> Iterator[str]:
    split = {name: how for name in scheme.inside if (how := scheme.split(name)) is not None}
    kinds = {how.kind for how in split.values()}
    yield from (one.IMPORTS for kind, one in ATTACHMENTS.items() if kind in kinds)
    for name, how in split.items():
        yield _line(scheme, name, how)


def _stays_streamed(scheme: Scheme) -> bool:
    """Tell whether the end of a call offloads nothing of some component with streamed blocks."""
    return any(
        scheme.streamed(name) is not None and scheme.placement(name) == RESIDENT
        for name in scheme.inside
    )


def _line(scheme: Scheme, name: str, how: Placement) -> str:
    stays = scheme.placement(name) == RESIDENT
    return ATTACHMENTS[how.kind].code(name, how, scheme.swap(name), stays=stays)


def _alike(plan: Plan, scheme: Scheme) -> Placement | None:
    """Return the placement that splits all components, if one call of the pipeline suffices, else None."""
    ways = {scheme.split(name) for name in plan.placements}
    how = next(iter(ways)) if len(ways) == 1 else None
    return None if how is None or how.kind not in TO_ALL or how.on_disk else how


def _model_offload(plan: Plan, scheme: Scheme) -> str:
    # diffusers skips 8-bit components in the sequence; excluded ones it would try to move.
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
            "# Hidden from model offload, which would refuse these, or move all of them to the GPU.",
            f"alone = {{name: pipe.components[name] for name in [{names}]}}",
            "vars(pipe).update(dict.fromkeys(alone))",
            "try:",
            *(f"    {line}" for line in lines),
            "finally:",
            "    vars(pipe).update(alone)",
            "",
        ]
    )


def _needs_hooks(scheme: Scheme) -> bool:
    return bool(scheme.swaps) or any(how.leaves_rest for how in scheme.inside.values())


def _hooks(scheme: Scheme) -> Iterator[str]:
    """Yield the source of our own hooks, as far as the scheme needs them, and the lines that attach them."""
    streamed = {name: how for name in scheme.inside if (how := scheme.streamed(name)) is not None}
    swaps = {name: swap for name, swap in scheme.swaps.items() if name not in streamed}
    if not _needs_hooks(scheme):
        return
    needed: list[Any] = [HOOKS[swap] for swap in swaps.values()]
    needed += [RESTS[scheme.swap(name)] for name in streamed]
    needed += [one for how in streamed.values() for one in ATTACHMENTS[how.kind].SOURCES]
    stays = {scheme.placement(name) == RESIDENT for name in streamed}
    needed += [put_hook] if swaps or False in stays else []
    needed += [hang_up] if True in stays else []
    yield f"{_HOOKS}{source_of(needed)}\n\n"
    for name, swap in swaps.items():
        yield f"put_hook(pipe, {quoted(name)}, {HOOKS[swap].__name__})\n"
    for name, how in streamed.items():
        yield _line(scheme, name, how)
