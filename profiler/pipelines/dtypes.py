"""The dtypes that pipelines are loaded in, for all components or by component, without torch.

As in `from_pretrained(dtype={"default": ..., "vae": ...})` of diffusers (0.42), `default` gives the dtype of all
components that are not named themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from profiler.errors import InputError

NAMES = ("float16", "bfloat16", "float32")
DEFAULT = "default"


def dtypes_of(text: str) -> str | dict[str, str]:
    """Return the dtype given on a command line, or the dtypes by component.

    Args:
        text: "bfloat16", or a dtype for all and others by component: "bfloat16,vae=float32", "vae=float32".

    Raises:
        InputError: A word is neither a dtype nor COMPONENT=DTYPE, or a component is named twice.

    Example:
        >>> dtypes_of("bfloat16,vae=float32")
        {'default': 'bfloat16', 'vae': 'float32'}
    """
    if "," not in text and "=" not in text:
        return dtype_name(text)
    found: dict[str, str] = {}
    for word in text.split(","):
        component, equals, name = word.strip().rpartition("=")
        component = component.strip() if equals else DEFAULT
        if not component.isidentifier() or component in found:
            raise InputError(
                f"dtypes {text!r} are not one for each component: write bfloat16,vae=float32"
            )
        found[component] = dtype_name(name.strip())
    return found


def written(asked: str | Mapping[str, str]) -> str:
    """Return dtypes in the notation that `dtypes_of` reads."""
    if isinstance(asked, str):
        return asked
    named = [f"{component}={name}" for component, name in asked.items() if component != DEFAULT]
    return ",".join([asked[DEFAULT], *named] if DEFAULT in asked else named)


def dtype_name(dtype: object) -> str:
    """Return the name of a dtype, given as torch's own or by name.

    Raises:
        InputError: It is not one that pipelines are loaded in.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in NAMES:
        raise InputError(f"unknown dtype {name!r}: use {', '.join(NAMES)}")
    return name


def by_component(asked: object, components: Collection[str], model: str) -> dict[str, str]:
    """Return the dtype of each component for which one is requested.

    Args:
        asked: A dtype, or dtypes by component and `default`; None requests none.
        components: The names of the components that have weights.
        model: The user's name for the pipeline, for the message.

    Raises:
        InputError: `asked` is not a dtype, or names a component that is not among `components`.
    """
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        return dict.fromkeys(components, dtype_name(asked))
    named = {str(component): dtype_name(dtype) for component, dtype in asked.items()}
    unknown = set(named) - {DEFAULT, *components}
    if unknown:
        raise InputError(
            f"{model!r} has no component {min(unknown)!r} to give a dtype to: it has {', '.join(components)}"
        )
    rest = dict.fromkeys(components, named[DEFAULT]) if DEFAULT in named else {}
    return {**rest, **{name: dtype for name, dtype in named.items() if name != DEFAULT}}
