"""Modular pipelines, by the names of their classes."""

from __future__ import annotations


def is_modular_class(pipeline_class: str) -> bool:
    """Tell whether a pipeline of this class is made of blocks: it has no model offload, and no end of a call.

    Its components are resident, split, or resident with streamed blocks. Source: the names of diffusers' modular
    pipelines (0.42).
    """
    return pipeline_class.endswith("ModularPipeline")
