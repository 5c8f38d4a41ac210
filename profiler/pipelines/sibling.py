"""Another pipeline over the components of one, such as image to image beside text to image."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import diffusers
from diffusers.utils import requires_backends
from torch import nn

from profiler.errors import InputError
from profiler.pipelines.modular import find_blocks, of_components
from profiler.pipelines.refusals import missing_library

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_DENOISERS = ("transformer", "unet", "prior", "decoder")


def find_pipeline_class(name: str, asked_by: str) -> type[DiffusionPipeline]:
    """Return diffusers' pipeline of this name.

    Args:
        name: the name of the class.
        asked_by: the requester to name in the message.

    Raises:
        InputError: if there is none, or it needs a library that is not installed.
    """
    try:
        cls = getattr(diffusers, name, None)
        if inspect.isclass(cls):
            requires_backends(cls, getattr(cls, "_backends", []))
    except (ImportError, RuntimeError) as error:  # diffusers' lazy import turns one into the other
        missing = missing_library(error)
        if not missing:
            raise
        raise InputError(f"{asked_by!r} asks for the pipeline class {name!r}: {missing}") from error
    if inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline):
        return cls
    known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    close = difflib.get_close_matches(name, known, n=2)
    hint = f"; did it mean {' or '.join(close)}?" if close else ""
    raise InputError(
        f"{asked_by!r} asks for the pipeline class {name!r}, "
        f"which diffusers {diffusers.__version__} does not have{hint}"
    )


def check_denoisers(
    cls: type[DiffusionPipeline], models: Mapping[str, type[Any] | None], asked_by: str
) -> None:
    """Refuse a pipeline class over another model's denoiser, which it would call with arguments that it does not take.

    Other components are no reason: a smaller VAE, or an encoder with a projection, can stand in for the annotated one.

    Args:
        cls: the pipeline class.
        models: the classes of the components, by their names.
        asked_by: the requester to name in the message.

    Raises:
        InputError: if a denoiser is of none of the classes that the constructor of `cls` is annotated with.
    """
    for name, parameter in inspect.signature(cls).parameters.items():
        wanted, found = list(_models(parameter.annotation)), models.get(name)
        if found is None or not wanted or not name.startswith(_DENOISERS):
            continue
        if not issubclass(found, tuple(wanted)):
            names = " or ".join(one.__name__ for one in wanted)
            raise InputError(
                f"{asked_by!r} has a {found.__name__} as its {name}, and {cls.__name__} needs a {names}"
            )


def _models(annotation: Any) -> Iterator[type[nn.Module]]:
    """Yield the classes of modules that an annotation admits."""
    if inspect.isclass(annotation) and issubclass(annotation, nn.Module):
        yield annotation
    for one in get_args(annotation):
        yield from _models(one)


def sibling(pipe: DiffusionPipeline, class_name: str) -> DiffusionPipeline:
    """Return a pipeline of another class that shares `pipe`'s components, which are left unchanged.

    diffusers' own `from_pipe` (0.42) casts shared components to float32 unless it is given a dtype.

    Raises:
        InputError: if there is no such class, or it needs a component that `pipe` lacks, or another model's denoiser.
    """
    held = {**pipe.config, **pipe.components}
    blocks = find_blocks(class_name)
    if blocks is not None:
        modular = of_components(blocks, pipe.components, pipe.config)
        modular.register_to_config(_name_or_path=held.get("_name_or_path"))
        return modular  # type: ignore[no-any-return]
    cls = find_pipeline_class(class_name, type(pipe).__name__)
    wanted = inspect.signature(cls).parameters
    needed = [name for name, one in wanted.items() if one.default is one.empty]
    missing = [name for name in needed if name not in held]
    if missing:
        raise InputError(
            f"{type(pipe).__name__} has no {', '.join(missing)}, which {class_name} needs"
        )
    models = {name: type(part) for name, part in held.items() if isinstance(part, nn.Module)}
    check_denoisers(cls, models, type(pipe).__name__)
    given = (name for name in wanted if name in needed or held.get(name) is not None)
    made: DiffusionPipeline = cls(**{name: held.get(name) for name in given})
    made.register_to_config(_name_or_path=held.get("_name_or_path"))
    return made


def check_shared(pipe: DiffusionPipeline, other: Any) -> None:
    """Refuse a pipeline that has modules which `pipe` does not have under the same name.

    Raises:
        InputError: naming those modules.
    """
    own = [
        name
        for name, part in other.components.items()
        if isinstance(part, nn.Module) and pipe.components.get(name) is not part
    ]
    if own:
        raise InputError(
            f"the {type(other).__name__} has a {', '.join(own)} of its own: make it of the components of the "
            f"{type(pipe).__name__}, or name the pipeline that has the most components first"
        )
