"""Settings of a pipeline that change what a call allocates or how long it takes, besides its placement.

A profile records those that were in effect. A plan made from it is valid only while they are, so it repeats them in its
text and its code, and puts them into effect when it is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

VAE_TILING = "vae_tiling"
VAE_SLICING = "vae_slicing"
LAYERWISE_CASTING = "layerwise_casting"
ATTENTION_SLICING = "attention_slicing"
ATTENTION_BACKEND = "attention_backend"
ATTENTION_PROCESSOR = "attention_processor"
DISABLED_ATTENTION = "disabled_attention"
FUSED_QKV = "fused_qkv"
FREEU = "freeu"
MEMORY_FORMAT = "memory_format"
CACHE = "cache"
ADAPTERS = "adapters"
GROUP_OFFLOAD = "group_offload"
ENVIRONMENT = "environment"
HOST_LAUNCH = "host_launch"
LOADING = "loading"

VAE = "vae"
"""The component whose tiling and slicing a plan may decide."""

_PLACING = frozenset(
    {GROUP_OFFLOAD}
)  # describe the placement of the run, which a plan decides anew


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting that was in effect during a run.

    Attributes:
        what: The kind, one of the constants of this module.
        component: The component it belongs to; "" for the pipeline or the process.
        value: Plain data. Of `vae_tiling` the sizes of tiles that are not the class's own, by attribute; of
            `layerwise_casting` the dtypes `storage` and `compute`; of `attention_slicing` the slice size; of
            `attention_backend`, `attention_processor`, `memory_format` and `cache` their name; of
            `disabled_attention` the backends that torch may not choose; of `adapters` their names; of `group_offload`
            its options by name; of `environment` the variables by name; of `host_launch` the microseconds that the
            host takes per launched kernel; of `loading` the options it was loaded with, by name
            (`pipelines.pipeline_options`); True for those that are only on or off.
    """

    what: str
    component: str = ""
    value: Any = True


def of_workload(settings: Iterable[Setting]) -> tuple[Setting, ...]:
    """Return the settings that stay in effect under any placement."""
    return tuple(one for one in settings if one.what not in _PLACING)


def modifiers_of(settings: Iterable[Setting]) -> tuple[str, ...]:
    """Return the names of the plan's modifiers (`placements.MODIFIERS`) that are among `settings`."""
    found = tuple(settings)
    kinds = {
        "vae-tiling": any(one.what == VAE_TILING and one.component == VAE for one in found),
        "vae-slicing": any(one.what == VAE_SLICING and one.component == VAE for one in found),
        "fp8": any(one.what == LAYERWISE_CASTING for one in found),
    }
    return tuple(name for name, is_on in kinds.items() if is_on)


def setting_words(setting: Setting) -> str:
    """Return a phrase for a setting: `vae works in tiles`."""
    value = setting.value
    if setting.what == LOADING:
        return ", ".join(_LOADED[name](one) for name, one in value.items() if name in _LOADED)
    if isinstance(value, dict):
        value = ", ".join(f"{name}={one}" for name, one in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(str, value))
    words = _WORDS[setting.what].format(component=setting.component, value=value, raw=setting.value)
    return words.replace(" ()", "")


_WORDS = {
    VAE_TILING: "{component} works in tiles ({value})",
    VAE_SLICING: "{component} works picture by picture",
    LAYERWISE_CASTING: "{component} stored as {raw[storage]}",
    ATTENTION_SLICING: "{component} with attention in slices of {value}",
    ATTENTION_BACKEND: "{component} with attention by {value}",
    ATTENTION_PROCESSOR: "{component} with attention by {value}",
    DISABLED_ATTENTION: "attention without {value}",
    FUSED_QKV: "{component} with fused projections",
    FREEU: "{component} with FreeU ({value})",
    MEMORY_FORMAT: "{component} in {value}",
    CACHE: "{component} with {value}",
    ADAPTERS: "{component} with the adapters {value}",
    GROUP_OFFLOAD: "{component} in groups ({value})",
    ENVIRONMENT: "{value}",
    HOST_LAUNCH: "a host that takes {value} µs per launched kernel",
}


_LOADED: Mapping[str, Callable[[Any], str]] = {
    "without": lambda names: f"without {', '.join(names)}",
    "loras": lambda loras: f"with LoRA of {', '.join(loras)}",
    "fuse_lora": lambda _: "fused",
    "controlnets": lambda names: f"with {len(names)} ControlNet{'s' * (len(names) > 1)}",
    "ip_adapters": lambda count: f"with {count} IP-Adapter{'s' * (count > 1)}",
    "inversions": lambda counts: f"with textual inversions of {', '.join(map(str, counts))}",
    "compile": lambda how: f"denoisers compiled ({how})",
}
"""Phrases for the options of loading that no other setting shows."""


def settings_words(settings: Iterable[Setting]) -> list[str]:
    """Return phrases for settings; one that several components share appears once."""
    alike: dict[tuple[str, str], list[Setting]] = {}
    for one in settings:
        alike.setdefault((one.what, repr(one.value)), []).append(one)
    phrases = (
        setting_words(
            Setting(what=first.what, component=_listed(first, *others), value=first.value)
        )
        for first, *others in alike.values()
    )
    return [phrase for phrase in phrases if phrase]


def _listed(*settings: Setting) -> str:
    return ", ".join(one.component for one in settings if one.component)


def run_words(
    *,
    dtype: str,
    dtypes: Mapping[str, str],
    quantization: Mapping[str, str],
    settings: Iterable[Setting],
) -> list[str]:
    """Return phrases that describe a run besides its model, call and placement.

    Args:
        dtype: The dtype of most components.
        dtypes: The dtypes of the other components, by name.
        quantization: The kind of quantisation, by component.
        settings: The settings of the pipeline.
    """
    words = [dtype] if dtype else []
    words += [f"{name} in {other}" for name, other in dtypes.items()]
    words += [f"{name} quantised to {kind}" for name, kind in quantization.items()]
    return words + settings_words(settings)
