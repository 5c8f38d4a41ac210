"""The head of a plan's code: its run, as comments, and the settings of that run, as diffusers' own calls.

A plan's figures hold for one dtype, quantisation, call and set of settings. Settings of a loaded pipeline are written
as code; those made when it is loaded, or before Python starts, are only stated.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from profiler.libraries.modes import DENOISERS
from profiler.planning.plan_calls import called_as
from profiler.record import settings
from profiler.record.settings import Setting
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from profiler.planning.plan import Plan

_WIDTH = 100
_TORCH_SWITCHES = {
    "flash": "enable_flash_sdp",
    "mem_efficient": "enable_mem_efficient_sdp",
    "math": "enable_math_sdp",
    "cudnn": "enable_cudnn_sdp",
}


def head(plan: Plan) -> str:
    """Return the run that the plan is for, as comments, as far as the plan records it."""
    what = plan.pipeline_class + (f" of {plan.model}" if plan.model else "")
    size = f" ({format_bytes(plan.gpu_bytes)})" if plan.gpu_bytes else ""
    on = f" on {plan.gpu}{size}" if plan.gpu else ""
    lines = [f"Planned for {what}{on}, within {format_bytes(plan.budget_bytes)}."]
    if plan.run_words:
        lines.append(f"It holds for {'; '.join(plan.run_words)}.")
    lines += [f"Called as {called}." for called in called_as(plan)]
    comments = (
        textwrap.fill(
            _plain(line),
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_on_hyphens=False,
        )
        for line in lines
    )
    return "\n".join(comments) + "\n"


def needs_torch(plan: Plan) -> bool:
    """Tell whether one of `settings_lines` names torch."""
    return any("torch." in line for line in settings_lines(plan))


def settings_lines(plan: Plan) -> Iterator[str]:
    """Yield the calls that put the plan's modifiers and the settings of its run into effect."""
    for one in _with_modifiers(plan):
        yield from _lines(one)


def _with_modifiers(plan: Plan) -> list[Setting]:
    """Return the settings of a plan's run, with those of modifiers that the plan names without a setting."""
    known = list(plan.settings)
    kinds = {one.what for one in known}
    if "fp8" in plan.modifiers and settings.LAYERWISE_CASTING not in kinds:
        value = {"storage": "float8_e4m3fn", "compute": ""}
        known += [
            Setting(what=settings.LAYERWISE_CASTING, component=name, value=value)
            for name in DENOISERS
            if name in plan.placements
        ]
    for modifier, what in (
        ("vae-tiling", settings.VAE_TILING),
        ("vae-slicing", settings.VAE_SLICING),
    ):
        if modifier in plan.modifiers and what not in kinds:
            known.append(Setting(what=what, component=settings.VAE, value={}))
    # Casting comes first: offloading must see the weights as they are stored.
    return sorted(known, key=lambda one: one.what != settings.LAYERWISE_CASTING)


def _lines(one: Setting) -> list[str]:
    """Return the lines that make one setting; none for a setting made earlier, or not by a plan."""
    write = _WRITERS.get(one.what)
    return [] if write is None else write(one.component, f"pipe.{one.component}", one.value)


def _casting(name: str, part: str, dtypes: dict[str, str]) -> list[str]:
    if name not in DENOISERS:
        return []  # a class of transformers, which has no such method
    compute = f"torch.{dtypes['compute']}" if dtypes["compute"] else f"{part}.dtype"
    options = f"storage_dtype=torch.{dtypes['storage']}, compute_dtype={compute}"
    uncast = f"all(one.dtype != torch.{dtypes['storage']} for one in {part}.parameters())"
    return [f"if {uncast}:\n    {part}.enable_layerwise_casting({options})\n"]


def _processor(part: str, kind: str) -> list[str]:
    if kind.startswith("XFormers"):
        return [f"{part}.enable_xformers_memory_efficient_attention()\n"]
    return [
        f"from diffusers.models.attention_processor import {kind}\n\n",
        f"{part}.set_attn_processor({kind}())\n",
    ]


_WRITERS: Mapping[str, Callable[[str, str, Any], list[str]]] = {
    settings.LAYERWISE_CASTING: _casting,
    settings.VAE_TILING: lambda _, part, sizes: [
        f"{part}.enable_tiling()\n",
        *(f"{part}.{name} = {size!r}\n" for name, size in sizes.items()),
    ],
    settings.VAE_SLICING: lambda _, part, __: [f"{part}.enable_slicing()\n"],
    settings.ATTENTION_SLICING: lambda _, part, size: [f"{part}.set_attention_slice({size!r})\n"],
    settings.ATTENTION_BACKEND: lambda _, part, name: [f"{part}.set_attention_backend({name!r})\n"],
    settings.ATTENTION_PROCESSOR: lambda _, part, kind: _processor(part, kind),
    settings.FUSED_QKV: lambda _, part, __: [f"{part}.fuse_qkv_projections()\n"],
    settings.FREEU: lambda _, part, scales: [
        f"{part}.enable_freeu({', '.join(f'{name}={one!r}' for name, one in scales.items())})\n"
    ],
    settings.MEMORY_FORMAT: lambda _, part, name: [f"{part}.to(memory_format=torch.{name})\n"],
    settings.DISABLED_ATTENTION: lambda _, __, names: [
        f"torch.backends.cuda.{_TORCH_SWITCHES[name]}(False)\n" for name in names
    ],
}


def _plain(text: str) -> str:
    """Return the text with unprintable characters escaped, so that it stays on its comment's line."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
