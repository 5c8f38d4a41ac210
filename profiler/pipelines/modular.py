"""diffusers' modular pipelines: blocks found by name, and the pipeline that they make of components.

Only blocks of diffusers itself are found: code that comes with a folder is never run.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import diffusers

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_blocks(name: str) -> Any:
    """Return diffusers' class of blocks of this name, or of those of its modular pipeline of this name; else None.

    Example:
        >>> find_blocks("FluxModularPipeline").__name__
        'FluxAutoBlocks'
    """
    found = _class(name)
    if found is not None and issubclass(found, diffusers.ModularPipeline):
        found = _class(found.default_blocks_name or "")
    is_blocks = found is not None and issubclass(found, diffusers.ModularPipelineBlocks)
    return found if is_blocks and found.block_classes else None


def components_taken(blocks: Any) -> set[str]:
    """Return the names of the components that a class of blocks takes."""
    return {spec.name for spec in blocks().expected_components}


def of_components(blocks: Any, components: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Return the modular pipeline of a class of blocks.

    Args:
        blocks: The class.
        components: Its components; those that the blocks do not take are left out, and those that they make of
            their configuration, such as guiders, need not be there.
        arguments: Values of its configuration; those that the blocks do not know are left out.
    """
    pipe = blocks().init_pipeline()
    taken = {name: part for name, part in components.items() if name in pipe.component_names}
    own = {*pipe.config} - {*pipe.component_names}
    known = {name: value for name, value in arguments.items() if name in own}
    pipe.update_components(**taken, **known)
    return pipe


def _class(name: str) -> Any:
    found = getattr(diffusers, name, None) if name else None
    modular = (diffusers.ModularPipeline, diffusers.ModularPipelineBlocks)
    return found if inspect.isclass(found) and issubclass(found, modular) else None
