"""Differences of a pipeline from the run that a plan was made for, in what neither the plan nor `apply` decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.libraries import hooks as private
from profiler.libraries.modules import main_dtype, quantization_of, tensors_of
from profiler.libraries.settings_read import settings_of
from profiler.record import settings
from profiler.record.settings import of_workload, setting_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from diffusers import DiffusionPipeline

    from profiler.planning import Plan
    from profiler.record.settings import Setting

_APPLIED = frozenset({settings.VAE_TILING, settings.VAE_SLICING, settings.LAYERWISE_CASTING})
_NOT_OF_A_PIPE = frozenset({settings.HOST_LAUNCH, settings.LOADING})


def differences(plan: Plan, pipe: DiffusionPipeline) -> tuple[str, ...]:
    """Return a phrase for each setting and dtype of `pipe` that differs from the planned run.

    Plans from files older than these records contain none of them, and nothing is compared.
    """
    if plan.dtypes is None:
        return ()
    modules = private.modules_of(pipe)
    return (*_settings(plan.settings, settings_of(modules)), *_dtypes(plan, modules))


def _settings(planned: Iterable[Setting], found: Iterable[Setting]) -> Iterator[str]:
    before, now = (
        {setting_words(one): None for one in _compared(each)} for each in (planned, found)
    )
    yield from (f"planned with {words}, which is not so" for words in before if words not in now)
    yield from (f"planned without {words}, which is so" for words in now if words not in before)


def _compared(given: Iterable[Setting]) -> list[Setting]:
    return [one for one in of_workload(given) if one.what not in _APPLIED | _NOT_OF_A_PIPE]


def _dtypes(plan: Plan, modules: dict[str, torch.nn.Module]) -> Iterator[str]:
    casts = {one.component for one in plan.settings if one.what == settings.LAYERWISE_CASTING}
    for name, module in modules.items():
        if name in casts or name not in plan.placements or quantization_of(module):
            continue
        planned = plan.other_dtypes.get(name, plan.dtype)
        found = main_dtype(list(tensors_of(module)))
        if planned and found and planned != found:
            yield f"{name} was planned in {planned} and is in {found}"
