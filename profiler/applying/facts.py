"""The facts that the rules of `placements/rules.py` need, read from a real pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.applying.hooks.pack import slots_of
from profiler.libraries import hooks as private
from profiler.libraries.modes import DENOISERS
from profiler.libraries.modules import blocks_of
from profiler.libraries.quantised import beside_weights, is_wrapper
from profiler.placements.placement import Facts

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


def facts_of(pipe: DiffusionPipeline) -> dict[str, Facts]:
    """Return the facts of each component of `pipe`."""
    return {name: _facts(pipe, name, module) for name, module in private.modules_of(pipe).items()}


def _facts(pipe: DiffusionPipeline, name: str, module: torch.nn.Module) -> Facts:
    blocks = list(blocks_of(module).values())
    first = next(module.parameters(), None)
    holding = (
        index
        for index, block in enumerate(blocks)
        if any(one is first for one in block.parameters())
    )
    quantized = _is_quantized(module)
    can_cast = name in DENOISERS and hasattr(module, "enable_layerwise_casting")
    return Facts(
        blocks=len(blocks),
        first_block=None if first is None else next(holding, None),
        has_parameters=first is not None,
        quantized=quantized,
        movable=not private.is_left_alone(module),
        groupable=private.supports_groups(module),
        tied=_is_tied(module),
        upcast=private.is_upcast(pipe, name, module),
        castable=can_cast and not quantized,
        tiles=name == "vae" and hasattr(module, "enable_tiling"),
        slices=name == "vae" and hasattr(module, "enable_slicing"),
    )


def _is_tied(module: torch.nn.Module) -> bool:
    held = [id(tensor) for _, tensor in slots_of(module)]
    return len(set(held)) < len(held)


def _is_quantized(module: torch.nn.Module) -> bool:
    return any(
        any(map(is_wrapper, part.parameters(recurse=False))) or any(beside_weights(part))
        for part in module.modules()
    )
