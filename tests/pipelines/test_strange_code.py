"""A model folder from a stranger gets to run no code of its own, and nobody is asked whether it may."""

from __future__ import annotations

import builtins
import json
from contextlib import suppress

import pytest
from tiny_folder import write_tiny_pipeline
from tokenizers import Tokenizer, models

from profiler.errors import InputError
from profiler.pipelines import load_pipeline
from profiler.virtual import VirtualGPU

AUTO = ("AutoConfig", "AutoFeatureExtractor", "AutoImageProcessor", "AutoModel", "AutoProcessor")
AUTO_MAP = {
    **dict.fromkeys((*AUTO, "AutoVideoProcessor"), "strange.Strange"),
    "AutoTokenizer": ["strange.Strange", "strange.Strange"],
}
CLASSES = (
    ("transformers", "AutoTokenizer"),
    ("transformers", "PreTrainedTokenizerFast"),
    ("transformers", "CLIPTokenizer"),
    ("transformers", "AutoProcessor"),
    ("transformers", "CLIPProcessor"),
    ("transformers", "Qwen2VLProcessor"),
    ("transformers", "AutoModel"),
    ("transformers", "AutoImageProcessor"),
    ("diffusers", "AutoModel"),
    ("strange", "Strange"),
)


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Return a function that writes a folder with code of its own; its `asked` and `ran` tell what came of it."""
    folder = write_tiny_pipeline(tmp_path / "strange")
    marker = tmp_path / "ran"
    asked = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": asked.append(prompt) or "y")
    code = f"open({str(marker)!r}, 'w')\nclass Strange:\n    from_pretrained = from_config = None\n"
    for part in folder.iterdir():
        if part.is_dir():
            (part / "strange.py").write_text(code)
    (folder / "strange.py").write_text(code)
    for file in folder.rglob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"_auto_map": AUTO_MAP}))
        if file.name != "model_index.json":
            file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": AUTO_MAP}))
    strange_tokenizer(folder / "tokenizer")
    return folder, lambda: (asked, marker.exists())


def strange_tokenizer(folder):
    """Write a real vocabulary, so that transformers loads the folder, and configurations for every kind of class."""
    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>")).save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text('{"a": 0, "<unk>": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    for name in ("processor_config", "preprocessor_config", "config", "video_preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps({"auto_map": AUTO_MAP}))


@pytest.mark.parametrize(("library", "class_name"), CLASSES)
def test_a_component_with_code_of_its_own_runs_none(strange, library, class_name):
    folder, outcome = strange
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = [library, class_name]
    (folder / "model_index.json").write_text(json.dumps(index))
    with suppress(InputError):  # whatever it says, it ran nothing
        load_pipeline(folder)
    assert outcome() == ([], False)


def test_models_with_code_of_their_own_run_none(strange):
    folder, outcome = strange
    with VirtualGPU("rtx-4060"):
        load_pipeline(folder, quantization={"unet": "bnb-nf4", "text_encoder": "bnb-nf4"})
    assert outcome() == ([], False)


def test_a_pipeline_class_of_its_own_is_refused(strange):
    folder, outcome = strange
    for name in ("strange.Strange", ["strange", "Strange"]):
        index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": name}
        (folder / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match="pipeline class"):
            load_pipeline(folder)
    assert outcome() == ([], False)
