"""The facts known about a pipeline's model, whatever its source: its catalogue entry, and its call if it is distilled.

A distilled model runs few steps, mostly without guidance, while its pipeline class has the defaults of the model that
it was distilled from. It is recognised by the name that it was loaded by, by the one that its folder was saved from, or
by its own configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.pipelines.catalogue import catalogue, name_of_hub_id
from profiler.pipelines.folder import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from profiler.pipelines.catalogue import Entry

# The schedulers made for consistency models; diffusers' documentation of LCM and TCD calls them so.
_CONSISTENCY_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
_CONSISTENCY_STEPS = 4
# FLUX.2 klein marks its distilled checkpoints with `is_distilled`, and then ignores guidance; the model card's call.
_DISTILLED_FLUX2 = {"num_inference_steps": 4, "guidance_scale": 1.0}


def known_entry(pipe: Any) -> Entry | None:
    """Return the catalogue's entry of the model that `pipe` was loaded from, or None if it has none."""
    name = str(_config(pipe).get("_name_or_path", ""))
    entries = catalogue()
    return (
        entries.get(name)
        or entries.get(name_of_hub_id(name))
        or entries.get(name_of_hub_id(origin_of(Path(name))))
    )


def distilled_call(pipe: Any) -> Mapping[str, Any]:
    """Return the arguments that a distilled model is called with; empty for any other model.

    Args:
        pipe: a diffusers pipeline.
    """
    found: dict[str, Any] = {}
    if type(getattr(pipe, "scheduler", None)).__name__ in _CONSISTENCY_SCHEDULERS:
        found["num_inference_steps"] = _CONSISTENCY_STEPS
    if _config(pipe).get("is_distilled") is True:
        found |= _DISTILLED_FLUX2
    entry = known_entry(pipe)
    return found if entry is None else {**found, **entry.call}


def _config(pipe: Any) -> Mapping[str, Any]:
    config: Mapping[str, Any] = getattr(pipe, "config", None) or {}
    return config
