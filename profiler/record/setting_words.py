"""Checks of the settings in a plan's or a profile's file, since a plan's code repeats them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.checking.code_words import check_known, check_names, check_words
from profiler.record import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from profiler.record.settings import Setting

_OF_THE_PROCESS = (
    settings.DISABLED_ATTENTION,
    settings.ENVIRONMENT,
    settings.HOST_LAUNCH,
    settings.LOADING,
)
_TORCH_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")


def check_settings(given: Iterable[Setting]) -> None:
    """Raise ValueError for the first setting that is unknown, or has a value that its kind never has."""
    for one in given:
        check_known("setting", [one.what], _CHECKS)
        check_names("a component", [one.component], empty=one.what in _OF_THE_PROCESS)
        try:
            _CHECKS[one.what](one.value)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{one.value!r} is no value of the setting {one.what}") from error


def _sizes(value: dict[str, Any]) -> None:
    check_names("a size of tiles", value.keys())
    if not all(name.startswith("tile_") for name in value):
        raise ValueError(f"{[*value]} are no sizes of tiles")
    _numbers(list(value.values()))


def _numbers(value: list[Any]) -> None:
    if not all(type(one) in (int, float, bool) for one in value):
        raise ValueError(f"{value} are no numbers")


def _slices(value: Any) -> None:
    _numbers(value if isinstance(value, list) else [value])


def _on_or_off(value: Any) -> None:
    _numbers([] if value == {} else [value])


def _dtypes(value: dict[str, str]) -> None:
    check_names("a dtype", [value["storage"]])
    check_names("a dtype", [value["compute"]], empty=True)


def _name(value: str) -> None:
    check_names("a class", [value])


def _class_of_diffusers(value: str) -> None:
    """Check a class that a plan's code imports from diffusers: all of theirs begin with a capital."""
    _name(value)
    if not value[0].isupper():
        raise ValueError(f"{value!r} is no name of a class")


def _scales(value: dict[str, Any]) -> None:
    check_known("scale of FreeU's", list(value), {"s1", "s2", "b1", "b2"})
    _numbers(list(value.values()))


def _texts(value: Any) -> None:
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError(f"{value!r} are no names")


def _options(value: dict[str, Any]) -> None:
    check_names("an option", value)
    for one in value.values():
        given = one if isinstance(one, list) else [one]
        if not all(isinstance(word, str) for word in given):
            _numbers(given)


def _variables(value: dict[str, str]) -> None:
    _texts([*value, *value.values()])


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    settings.VAE_TILING: _sizes,
    settings.VAE_SLICING: _on_or_off,
    settings.LAYERWISE_CASTING: _dtypes,
    settings.ATTENTION_SLICING: _slices,
    settings.ATTENTION_BACKEND: lambda value: check_words("attention backend", [value]),
    settings.ATTENTION_PROCESSOR: _class_of_diffusers,
    settings.DISABLED_ATTENTION: lambda value: check_known(
        "attention of torch's", value, _TORCH_ATTENTION
    ),
    settings.FUSED_QKV: _on_or_off,
    settings.FREEU: _scales,
    settings.MEMORY_FORMAT: _name,
    settings.CACHE: _name,
    settings.ADAPTERS: _texts,
    settings.GROUP_OFFLOAD: lambda value: check_names("an option", value.keys()),
    settings.ENVIRONMENT: _variables,
    settings.HOST_LAUNCH: _slices,
    settings.LOADING: _options,
}
