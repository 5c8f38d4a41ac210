"""The private names of PyTorch and diffusers that this package runs on, by module, and what each serves.

A release may take any of them away. The first use of what needs it says so in a sentence, and `vram doctor` asks for
all of them beforehand.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from profiler.libraries.releases import installed, tested


class PrivateName(NamedTuple):
    """One name, and what is read through it."""

    module: str
    name: str
    serves: str

    @property
    def library(self) -> str:
        """The library that has it."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        """Return it as it is written in code."""
        return f"{self.module}.{self.name}"


_GROUPS = "diffusers.hooks.group_offloading"
_CASTING = "diffusers.hooks.layerwise_casting"
_ATTENTION = "diffusers.models.attention_dispatch"
_SINGLE_FILES = "diffusers.loaders.single_file_utils"
_SINGLE_FILE_MODELS = "diffusers.loaders.single_file_model"
_SINGLE_FILE = "checkpoints in one file"
_OFFLOAD, _LAYERWISE = "group offload", "layerwise casting"
_LAYOUT = "the layout of results"
NAMES = (
    PrivateName(_GROUPS, "ModuleGroup", _OFFLOAD),
    PrivateName(_GROUPS, "_GROUP_OFFLOADING", _OFFLOAD),
    PrivateName(_GROUPS, "_LAYER_EXECUTION_TRACKER", _OFFLOAD),
    PrivateName(_GROUPS, "_LAZY_PREFETCH_GROUP_OFFLOADING", _OFFLOAD),
    PrivateName(_GROUPS, "_is_group_offload_enabled", _OFFLOAD),
    PrivateName("diffusers.hooks._common", "_GO_LC_SUPPORTED_PYTORCH_LAYERS", _OFFLOAD),
    PrivateName("diffusers.hooks.hooks", "HookRegistry", "diffusers' hooks on modules"),
    PrivateName("diffusers.hooks.hooks", "ModelHook", "the hooks of streamed blocks"),
    PrivateName(_CASTING, "_LAYERWISE_CASTING_HOOK", _LAYERWISE),
    PrivateName(_CASTING, "_PEFT_AUTOCAST_DISABLE_HOOK", _LAYERWISE),
    PrivateName(_CASTING, "LayerwiseCastingHook", _LAYERWISE),
    PrivateName(_CASTING, "PeftInputAutocastDisableHook", _LAYERWISE),
    PrivateName(_ATTENTION, "AttentionBackendName", "the attention that was chosen"),
    PrivateName(_ATTENTION, "_AttentionBackendRegistry", "the attention that was chosen"),
    PrivateName(_SINGLE_FILES, "CHECKPOINT_KEY_NAMES", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "DIFFUSERS_DEFAULT_PIPELINE_PATHS", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "SingleFileComponentError", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "create_diffusers_clip_model_from_ldm", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "create_diffusers_t5_model_from_checkpoint", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "infer_diffusers_model_type", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "is_clip_model_in_single_file", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "is_t5_in_single_file", _SINGLE_FILE),
    PrivateName(_SINGLE_FILES, "load_model_dict_into_meta", _SINGLE_FILE),
    PrivateName(_SINGLE_FILE_MODELS, "SINGLE_FILE_LOADABLE_CLASSES", _SINGLE_FILE),
    PrivateName(_SINGLE_FILE_MODELS, "load_model_dict_into_meta", _SINGLE_FILE),
    PrivateName("diffusers.utils.torch_utils", "empty_device_cache", "the end of a call"),
    PrivateName("diffusers.utils.torch_utils", "get_device", "the device of a plan"),
    PrivateName("torch._prims_common", "is_non_overlapping_and_dense_or_false", _LAYOUT),
    PrivateName("torch._prims_common", "suggest_memory_format", _LAYOUT),
    PrivateName("torch.utils._device", "_device_constructors", "where new tensors are"),
    PrivateName("torch.utils._python_dispatch", "_disable_current_modes", "the virtual GPU"),
    PrivateName("torch._ops", "HigherOrderOperator", "the virtual GPU"),
)


def gone() -> list[PrivateName]:
    """Return the names that the installed libraries do not have."""
    return [one for one in NAMES if not _is_there(one)]


def told_of(error: ImportError) -> str | None:
    """Return a sentence about the name that an import failed for; None if it is none of `NAMES`."""
    for one in NAMES:
        if error.name == one.module and (
            isinstance(error, ModuleNotFoundError) or f"'{one.name}'" in str(error)
        ):
            return (
                f"{one.library} {installed(one.library)} has no {one}, by which {one.serves} is read; it was last seen "
                f"in {tested(one.library).newest}: install that release, or a newer vram-profiler"
            )
    return None


def _is_there(one: PrivateName) -> bool:
    try:
        return hasattr(import_module(one.module), one.name)
    except ImportError:
        return False
