"""One component built from its configuration, with the dtypes that `from_pretrained` would leave it with.

Nothing is initialised and no weights are read: inside a virtual GPU the tensors are virtual, elsewhere
they are on `meta`, or real with random weights if requested.

This file knows how diffusers (0.42, `models/modeling_utils.py`) and transformers (5.23,
`modeling_utils.py` and `core_model_loading.py`) choose dtypes, and no other file in this package
names their private attributes. Both construct a model while `dtype` is torch's default dtype; they
differ in the tensors that a checkpoint holds (parameters and persistent buffers):

- diffusers casts every floating-point one to `dtype`, except below a module named in
  `_keep_in_fp32_modules`;
- transformers keeps the dtype that the constructor chose, and raises to float32 what its plan
  names: a regular expression over the whole name, `_keep_in_fp32_modules` for float16 only,
  `_keep_in_fp32_modules_strict` always.

In both, non-persistent buffers keep the dtype that the constructor chose.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers

from profiler.libraries.text_models import kept_in_float32, no_init_weights
from profiler.pipelines.random_weights import fill_at_random

if TYPE_CHECKING:
    from profiler.pipelines.catalogue import Entry, Part

DtypeRule = Callable[[str, torch.Tensor], torch.dtype]


def build_module(
    cls: type[torch.nn.Module],
    config: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    random_weights: bool = False,
) -> torch.nn.Module:
    """Return a `cls` without weights, with the dtypes of `from_pretrained(dtype=dtype)`.

    Args:
        cls: A diffusers `ModelMixin` or a transformers `PreTrainedModel`.
        config: Hyperparameters as in the component's `config.json`; class defaults may be left out.
        dtype: The dtype that the caller would pass to `from_pretrained`.
        random_weights: Fill real parameters on the CPU with small random numbers; buffers keep the
            values that the constructor computed.
    """
    transformers_model = issubclass(cls, transformers.PreTrainedModel)
    build = _build_transformers if transformers_model else _build_diffusers
    with no_init_weights(), nullcontext() if random_weights else placement():
        module, rule = build(cls, copy.deepcopy(dict(config)), dtype)
        if not random_weights:
            _place_strays(module)
    _cast_checkpoint_tensors(module, rule)
    if random_weights:
        fill_at_random(module)
    return module.eval()


def _build_diffusers(
    cls: Any, config: dict[str, Any], dtype: torch.dtype
) -> tuple[torch.nn.Module, DtypeRule]:
    with _default_dtype(dtype):
        module = cls.from_config(config)
    kept = set(cls._keep_in_fp32_modules or ())

    def rule(name: str, tensor: torch.Tensor) -> torch.dtype:
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if kept.intersection(name.split(".")) else dtype

    return module, rule


def _build_transformers(
    cls: Any, config: dict[str, Any], dtype: torch.dtype
) -> tuple[torch.nn.Module, DtypeRule]:
    module = cls._from_config(cls.config_class.from_dict(config), dtype=dtype)
    module.tie_weights()  # `no_init_weights` silences `init_weights`, which would have tied them
    for parameter in module.parameters():
        # Loading makes new parameters that follow the default, whatever the constructor chose.
        parameter.requires_grad_(parameter.is_floating_point())
    plan = kept_in_float32(module, dtype)
    pattern = re.compile("|".join(key.replace("*", ".*") for key in plan)) if plan else None

    def rule(name: str, tensor: torch.Tensor) -> torch.dtype:
        return torch.float32 if pattern is not None and pattern.search(name) else tensor.dtype

    return module, rule


def _place_strays(module: torch.nn.Module) -> None:
    """Move tensors that a constructor made on the CPU regardless of the device context to where the others are.

    `torch.Tensor([...])` ignores the device context, and some constructors name the CPU.
    """
    for name, parameter in list(module.named_parameters()):
        if _is_real(parameter):
            placed = torch.nn.Parameter(torch.as_tensor(parameter.data), parameter.requires_grad)
            owner, leaf = _owner(module, name)
            owner.register_parameter(leaf, placed)
    for name, buffer in list(module.named_buffers()):
        if _is_real(buffer):
            owner, leaf = _owner(module, name)
            owner._buffers[leaf] = torch.as_tensor(buffer)  # persistent or not, as it was


def _is_real(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"


def _cast_checkpoint_tensors(module: torch.nn.Module, rule: DtypeRule) -> None:
    """Replace each parameter and persistent buffer whose dtype differs from the one that `rule` returns."""
    persistent = set(module.state_dict())
    for name, parameter in list(module.named_parameters()):
        if (dtype := rule(name, parameter)) != parameter.dtype:
            cast = torch.nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad)
            owner, leaf = _owner(module, name)
            owner.register_parameter(leaf, cast)
    for name, buffer in list(module.named_buffers()):
        if name in persistent and (dtype := rule(name, buffer)) != buffer.dtype:
            owner, leaf = _owner(module, name)
            owner.register_buffer(leaf, buffer.to(dtype))


def _owner(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def placement() -> AbstractContextManager[Any]:
    """Return the context to build in: none if new tensors are already virtual, else `meta`."""
    plain = type(torch.empty(0)) is torch.Tensor
    return torch.device("meta") if plain else nullcontext()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def find_class(library: str, class_name: str) -> Any:
    """Return the class that `model_index.json` means by `[library, class_name]`, or None.

    Only classes of diffusers, its pipelines and transformers are found: code that comes with a folder
    is never run.
    """
    if library == "diffusers":
        return getattr(diffusers, class_name, None)
    if library == "transformers":
        return getattr(transformers, class_name, None)
    name = library.rpartition(".")[2]
    kept = getattr(diffusers.pipelines, "deprecated", None)  # where 0.42 keeps, say, wuerstchen
    module = getattr(diffusers.pipelines, name, None) or getattr(kept, name, None)
    return getattr(module, class_name, None)


def with_weights(entry: Entry) -> list[str]:
    """Return the components of a pipeline that have weights."""
    return [
        slot for slot, part in entry.components.items() if part is not None and _has_weights(part)
    ]


def _has_weights(part: Part) -> bool:
    cls = class_of(part)
    return cls is not None and issubclass(cls, torch.nn.Module)


def class_of(part: Part) -> type[Any] | None:
    """Return a component's class; None if there is none, or it lacks a library, which is reported when it is built."""
    try:
        cls = find_class(part.library, part.class_name)
    except ImportError:
        return None
    return cls if inspect.isclass(cls) else None
