"""What diffusers' `from_single_file` makes of a checkpoint: the kind of model it recognises, and its components.

diffusers' own functions run, on tensors that have shapes and dtypes and no data: they recognise the model by names and
shapes, rename, split and join the tensors, cast them, and put them into the model. Its pipelines do so component by
component (`load_single_file_sub_model` of `loaders/single_file.py`, diffusers 0.42.1), as `load_component` does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    SingleFileComponentError,
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
    infer_diffusers_model_type,
    is_clip_model_in_single_file,
    is_t5_in_single_file,
)

from profiler.libraries.quantised import elements_of
from profiler.patching import Patches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    Tensors = Mapping[str, torch.Tensor]

_PUT_IN_PLACE = "load_model_dict_into_meta"
_FALLBACK = "v1"  # what diffusers takes a checkpoint for if it recognises nothing in it


class AbsentError(Exception):
    """A checkpoint has no weights for a component, or not all, which diffusers would leave without memory.

    Attributes:
        is_sure: whether it has none; else some are missing, or diffusers' conversion of the names ended with an error.
    """

    def __init__(self, message: str, *, is_sure: bool = True) -> None:
        super().__init__(message)
        self.is_sure = is_sure


class Recognised(NamedTuple):
    """What diffusers takes a checkpoint for.

    Attributes:
        kind: its own word: "xl_base", "flux-dev", ...
        hub_id: the repository that it takes the configuration from.
    """

    kind: str
    hub_id: str


class Taken(NamedTuple):
    """A component with the weights of a checkpoint.

    Attributes:
        module: the component.
        elements: the numbers that it holds for those that it found.
    """

    module: nn.Module
    elements: int


def recognise(checkpoint: Tensors) -> Recognised | None:
    """Return what diffusers takes a checkpoint for, or None if it recognises nothing in it."""
    try:
        kind = infer_diffusers_model_type(checkpoint)
        hub_id = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    except Exception:  # noqa: BLE001 - it looks up shapes of tensors that need not be there, or have them
        return None
    if kind == _FALLBACK and CHECKPOINT_KEY_NAMES[_FALLBACK] not in checkpoint:
        return None
    return Recognised(kind, hub_id)


def is_loadable(cls: type[nn.Module], checkpoint: Tensors) -> bool:
    """Tell whether diffusers would look for a component of this class in the checkpoint."""
    if issubclass(cls, transformers.PreTrainedModel):
        return is_clip_model_in_single_file(cls, checkpoint) or is_t5_in_single_file(checkpoint)
    return any(base.__name__ in SINGLE_FILE_LOADABLE_CLASSES for base in cls.__mro__)


def load_component(
    cls: Any, checkpoint: Tensors, *, folder: Path, slot: str, dtype: torch.dtype, gguf: bool
) -> Taken:
    """Return a component with the checkpoint's weights.

    Args:
        cls: a class that `is_loadable`.
        checkpoint: its tensors by name; on `meta`, the component is there afterwards, too.
        folder: a pipeline's folder, with the component's configuration in it.
        slot: the component's name in the pipeline.
        dtype: what `from_single_file` would be given.
        gguf: whether the checkpoint is a GGUF file's, whose quantised tensors are kept as they are.

    Raises:
        AbsentError: if the checkpoint has none for it, or not all.
        ValueError: if the checkpoint has the component in other shapes than the configuration.
    """
    watch = _Watch(next(iter(checkpoint.values())).device)
    with Patches() as patches:
        for home in (single_file_model, single_file_utils):
            original = getattr(home, _PUT_IN_PLACE)
            patches.replace(home, _PUT_IN_PLACE, partial(watch.put_in_place, original))
        try:
            module = _load(cls, dict(checkpoint), str(folder), slot, dtype, gguf)
        except Exception as error:
            if watch.found:
                raise
            is_sure = isinstance(error, SingleFileComponentError)
            raise AbsentError(f"{type(error).__name__}: {error}", is_sure=is_sure) from error
    if not watch.found:
        raise AbsentError("none of its tensors are there")
    if watch.missing:
        what = (
            f"{len(watch.missing)} of its tensors are missing, the first of them {watch.missing[0]}"
        )
        raise AbsentError(what, is_sure=False)
    return Taken(module.eval(), watch.found)


def _load(
    cls: Any, checkpoint: dict[str, torch.Tensor], folder: str, slot: str, dtype: Any, gguf: bool
) -> nn.Module:
    where = {"config": folder, "subfolder": slot, "local_files_only": True, "torch_dtype": dtype}
    if not issubclass(cls, transformers.PreTrainedModel):
        if gguf:
            where["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
        device = next(iter(checkpoint.values())).device
        return cls.from_single_file(checkpoint, device=str(device), **where)  # type: ignore[no-any-return]
    make = (
        create_diffusers_clip_model_from_ldm
        if is_clip_model_in_single_file(cls, checkpoint)
        else create_diffusers_t5_model_from_checkpoint
    )
    return make(cls, checkpoint=checkpoint, **where)  # type: ignore[no-any-return]


class _Watch:
    """A reader of what diffusers puts into a model, and where.

    Attributes:
        found: the numbers that the model holds for those of the checkpoint.
        missing: the names of the model's tensors that the checkpoint does not have.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.found = 0
        self.missing: tuple[str, ...] = ()

    def put_in_place(
        self, original: Callable[..., Any], model: nn.Module, state_dict: Tensors, **options: Any
    ) -> Any:
        """Do what `load_model_dict_into_meta` does, with `meta` in place of the CPU if the checkpoint is there."""
        named = model.state_dict()
        self.found = sum(elements_of(one) for name, one in state_dict.items() if name in named)
        self.missing = tuple(name for name in named if name not in state_dict)
        if self._device.type == "meta":
            options["device_map"] = {"": self._device}
        return original(model, state_dict, **options)
