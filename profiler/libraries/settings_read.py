"""The settings of a pipeline that change memory or time, read under the names of `profiler.record.settings`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

from profiler.libraries import hooks as private
from profiler.libraries import offload_state as hooks
from profiler.record import settings
from profiler.record.settings import Setting

_VARIABLES = (
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
)
"""Environment variables that change how torch 2.13 allocates (docs.pytorch.org, notes/cuda, notes/hip and envvars)."""

_HIP_VARIABLES = (
    "PYTORCH_HIP_ALLOC_CONF",
    "HIPBLASLT_WORKSPACE_SIZE",
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
)
"""Those that only PyTorch's build for ROCm reads."""

_ATTENTION = {
    "flash": torch.backends.cuda.flash_sdp_enabled,
    "mem_efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
    "math": torch.backends.cuda.math_sdp_enabled,
    "cudnn": torch.backends.cuda.cudnn_sdp_enabled,
}
_UNFUSED = frozenset({"AttnProcessor", "AttnAddedKVProcessor"})  # these write the full score matrix
_EXTERNAL = frozenset({"XFormersAttnProcessor", "XFormersAttnAddedKVProcessor"})


def settings_of(modules: dict[str, nn.Module]) -> tuple[Setting, ...]:
    """Return the settings of a pipeline's components, by name, then those of the process."""
    found = [one for name, module in modules.items() for one in _component(name, module)]
    return (*found, *_process())


@contextmanager
def default_attention_kept() -> Iterator[None]:
    """Put back, in the end, the attention of models that have none of their own: choosing it for one sets it for all.

    Source: `ModelMixin.set_attention_backend` of diffusers 0.42.1, models/modeling_utils.py.
    """
    before = _AttentionBackendRegistry._active_backend
    try:
        yield
    finally:
        _AttentionBackendRegistry._active_backend = before


def _component(name: str, module: nn.Module) -> Iterator[Setting]:
    if getattr(module, "use_tiling", False):
        yield Setting(what=settings.VAE_TILING, component=name, value=_own_tiles(module))
    if getattr(module, "use_slicing", False):
        yield Setting(what=settings.VAE_SLICING, component=name)
    yield from _casting(name, module)
    yield from _attention(name, module)
    yield from _grouping(name, module)
    if any(getattr(part, "fused_projections", False) for part in module.modules()):
        yield Setting(what=settings.FUSED_QKV, component=name)
    scales = [found for part in module.modules() if (found := _freeu(part)) is not None]
    if scales:
        yield Setting(what=settings.FREEU, component=name, value=scales[0])
    if _is_channels_last(module):
        yield Setting(what=settings.MEMORY_FORMAT, component=name, value="channels_last")
    cache = getattr(module, "_cache_config", None)
    if cache is not None:
        yield Setting(what=settings.CACHE, component=name, value=type(cache).__name__)
    adapters = getattr(module, "peft_config", None)
    if isinstance(adapters, dict) and adapters:
        yield Setting(what=settings.ADAPTERS, component=name, value=list(map(str, adapters)))


def _own_tiles(module: nn.Module) -> dict[str, Any]:
    """Return the tile sizes that differ from those of a module freshly built from the same configuration."""
    given = {key: value for key, value in vars(module).items() if key.startswith("tile_")}
    kind: Any = type(module)
    plain: dict[str, Any] = {}
    try:
        with torch.device("meta"):
            plain = vars(kind.from_config(module.config))
    except Exception:  # noqa: BLE001 - a class of someone else's: all its sizes are reported
        plain = {}
    return {
        key: value
        for key, value in sorted(given.items())
        if isinstance(value, int | float) and plain.get(key) != value
    }


def _freeu(part: nn.Module) -> dict[str, float] | None:
    """Return the scales that diffusers' `enable_freeu` (0.42.1) sets on the up blocks of a UNet."""
    scales = {name: getattr(part, name, None) for name in ("s1", "s2", "b1", "b2")}
    numbers = {name: one for name, one in scales.items() if isinstance(one, int | float)}
    return numbers if len(numbers) == len(scales) else None


def _casting(name: str, module: nn.Module) -> Iterator[Setting]:
    dtypes = hooks.casting_dtypes(module)
    if dtypes is not None:
        storage, compute = dtypes
        value = {"storage": storage, "compute": compute}
        yield Setting(what=settings.LAYERWISE_CASTING, component=name, value=value)


def _attention(name: str, module: nn.Module) -> Iterator[Setting]:
    held = [getattr(part, "processor", None) for part in module.modules()]
    processors: list[Any] = list(filter(None, held))
    slices = [one.slice_size for one in processors if getattr(one, "slice_size", None)]
    if slices:
        value = slices[0] if len(set(slices)) == 1 else slices
        yield Setting(what=settings.ATTENTION_SLICING, component=name, value=value)
    names = {type(one).__name__ for one in processors} & (_UNFUSED | _EXTERNAL)
    for one in sorted(names):
        yield Setting(what=settings.ATTENTION_PROCESSOR, component=name, value=one)
    asked = {_backend(getattr(one, "_attention_backend", None)) for one in processors} - {""}
    if not asked and any(hasattr(one, "_attention_backend") for one in processors):
        asked = {_backend(_AttentionBackendRegistry._active_backend)}
    for backend in sorted(asked - {AttentionBackendName.NATIVE.value}):
        yield Setting(what=settings.ATTENTION_BACKEND, component=name, value=backend)


def _backend(asked: Any) -> str:
    return "" if asked is None else str(getattr(asked, "value", asked))


def _grouping(name: str, module: nn.Module) -> Iterator[Setting]:
    config = private.group_config(module)
    if config is None:
        return
    value = {
        "type": config.offload_type.value,
        "blocks": config.num_blocks_per_group,
        "stream": config.stream is not None,
        "record_stream": config.record_stream,
        "low_cpu_mem": config.low_cpu_mem_usage,
        "disk": config.offload_to_disk_path is not None,
    }
    yield Setting(
        what=settings.GROUP_OFFLOAD,
        component=name,
        value={key: one for key, one in value.items() if one not in (None, False)},
    )


def _is_channels_last(module: nn.Module) -> bool:
    """Tell whether a convolution's weight is stored channels last; with a side of size 1, both layouts are the same."""
    weights = (part.weight for part in module.modules() if isinstance(part, nn.Conv2d))
    return any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in weights
    )


def _process() -> Iterator[Setting]:
    switched_off = [name for name, is_on in _ATTENTION.items() if not is_on()]
    if switched_off:
        yield Setting(what=settings.DISABLED_ATTENTION, value=switched_off)
    read = _VARIABLES if torch.version.hip is None else (*_VARIABLES, *_HIP_VARIABLES)
    variables = {name: os.environ[name] for name in read if os.environ.get(name)}
    if variables:
        yield Setting(what=settings.ENVIRONMENT, value=variables)
