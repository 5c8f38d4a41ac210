"""Every tensor has the dtype that the real `from_pretrained` leaves it with."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from loading_worlds import TINY, tensors
from transformers import CLIPTextModel

from profiler.pipelines.building import build_module, find_class
from profiler.pipelines.catalogue import catalogue
from profiler.virtual import VirtualGPU
from profiler.virtual.tensor import VirtualTensor

# Warnings of the real `from_pretrained` and of constructors; `load_pipeline` itself is silent.
pytestmark = pytest.mark.filterwarnings("ignore")

CASES = pytest.mark.parametrize(
    ("library", "class_name", "config"),
    [(*key, config) for key, config in TINY.items()],
    ids=[class_name for _, class_name in TINY],
)


@pytest.fixture(autouse=True, scope="module")
def _transformers_has_initialised_once():
    """The first initialisation gives `torch.nn.Module` a method of transformers, for good."""
    from_scratch("transformers", "CLIPTextModel", TINY["transformers", "CLIPTextModel"])


def from_scratch(library, class_name, config):
    cls = find_class(library, class_name)
    if hasattr(cls, "config_class") and cls.config_class is not None:
        return cls(cls.config_class.from_dict(config))
    return cls.from_config(config)


def told(module):
    """Return what must be equal: of each tensor shape, dtype and gradient, and the mode."""
    found = {
        name: (tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
        for name, tensor in tensors(module).items()
    }
    return {"training": {each.training for each in module.modules()}, "tensors": found}


@CASES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes_are_those_of_from_pretrained(tmp_path, library, class_name, config, dtype):
    from_scratch(library, class_name, config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())

    real = find_class(library, class_name).from_pretrained(tmp_path, dtype=dtype)
    ours = build_module(find_class(library, class_name), stored, dtype)

    assert told(ours) == told(real)
    assert {tensor.device.type for tensor in tensors(ours).values()} == {"meta"}


@CASES
def test_virtual_gpu_changes_no_dtype(library, class_name, config):
    cls = find_class(library, class_name)
    built = []
    for context in (nullcontext(), VirtualGPU("rtx-4090")):
        with context:
            built.append(told(build_module(cls, config, torch.float16)))

    assert built[0] == built[1]


@CASES
def test_every_tensor_is_virtual_on_a_virtual_gpu(library, class_name, config):
    with VirtualGPU("rtx-4090"):
        module = build_module(find_class(library, class_name), config, torch.float16)

        assert {type(tensor) for tensor in tensors(module).values()} == {VirtualTensor}


def test_strict_float32_modules_are_kept_in_bfloat16_too(tmp_path, monkeypatch):
    """There are two lists; the strict one holds for bfloat16, the other does not."""
    monkeypatch.setattr(CLIPTextModel, "_keep_in_fp32_modules_strict", ["final_layer_norm"])
    monkeypatch.setattr(CLIPTextModel, "_keep_in_fp32_modules", ["mlp"])
    config = TINY["transformers", "CLIPTextModel"]
    from_scratch("transformers", "CLIPTextModel", config).save_pretrained(tmp_path)

    real = CLIPTextModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours = build_module(CLIPTextModel, config, torch.bfloat16)

    assert told(ours) == told(real)
    kept = {name for name, tensor in tensors(ours).items() if tensor.dtype == torch.float32}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in kept} == {"final_layer_norm"}


def test_buffers_have_their_values_on_the_virtual_gpu():
    with VirtualGPU("rtx-4090"):
        config = TINY["transformers", "CLIPTextModel"]
        module = build_module(CLIPTextModel, config, torch.float16)
        (buffer,) = module.buffers()

        assert buffer.tolist() == [list(range(77))]


def test_tied_weights_stay_tied():
    config = TINY["transformers", "T5EncoderModel"]
    module = build_module(find_class("transformers", "T5EncoderModel"), config, torch.float16)

    assert module.shared.weight is module.encoder.embed_tokens.weight


# Autoencoders of MiniMax-H3, not cut down yet: they follow the same rule.
NOT_COMPARED = {("diffusers", f"AutoencoderKLMiniMaxH3{what}") for what in ("", "Audio")}


def test_every_class_of_the_catalogue_with_dtypes_of_its_own_is_compared():
    """All others follow the rule of their library, which the classes in `TINY` show."""
    entries = catalogue().values()
    parts = [part for entry in entries for part in entry.components.values() if part is not None]
    classes = {key: find_class(*key) for key in {(one.library, one.class_name) for one in parts}}
    models = {key: cls for key, cls in classes.items() if issubclass(cls, torch.nn.Module)}
    lists = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    own = {key for key, cls in models.items() if any(getattr(cls, name, None) for name in lists)}

    assert own - NOT_COMPARED <= set(TINY) <= set(models)


def test_folder_cannot_name_a_class_outside_diffusers_and_transformers():
    assert find_class("os", "system") is None
    assert find_class("subprocess", "Popen") is None


def test_class_of_a_deprecated_pipeline_is_found_under_the_name_that_folders_have():
    assert find_class("wuerstchen", "PaellaVQModel").__name__ == "PaellaVQModel"
    assert find_class("no_such_pipeline", "PaellaVQModel") is None
