"""What the documents show is run: every command, and every piece of Python."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from original_layouts import (
    ldm_clip,
    ldm_unet,
    ldm_vae,
    original_flux,
    write_gguf_header,
    write_header,
)
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.app import app
from profiler.pipelines import load_pipeline

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/guide.md")


def _blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def _commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a block and the output shown below it, "" where none is shown."""
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [(command, output.rstrip()) for command, output in found]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Headers of checkpoints in one file: a Stable Diffusion, and a FLUX.1 in GGUF if its library is installed."""
    root = tmp_path_factory.mktemp("checkpoints")
    pipe = load_pipeline("sd15", dtype="float16")
    parts = {**ldm_unet(pipe.unet), **ldm_vae(pipe.vae), **ldm_clip(pipe.text_encoder)}
    write_header(root / "my-model.safetensors", parts)
    if find_spec("gguf"):
        flux = original_flux(load_pipeline("flux1-dev").transformer)
        write_gguf_header(root / "my-model.gguf", flux, _type_of)
    return root


def _type_of(name, tensor):
    return "F32" if tensor.ndim < 2 else "Q4_K" if tensor.shape[-1] % 256 == 0 else "F16"


@pytest.fixture
def here(tmp_path, checkpoints, monkeypatch):
    folder = write_tiny_pipeline(tmp_path / "my-pipeline")
    tiny = load_pipeline(str(folder), dtype="float16")
    write_header(tmp_path / "my-finetune.safetensors", ldm_unet(tiny.unet))
    for file in checkpoints.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs_and_prints_what_is_shown(document, here, pytestconfig):
    """`make demo` stands for the command behind it. `--update-goldens` writes what is printed.

    Of the guide's plans those that are kept are made each time, and all of them under `--nightly`.
    """
    whole = pytestconfig.getoption("--nightly")
    shown = [one for block in _blocks(document, "console") for one in _commands(block)]
    assert shown
    for command, output in shown:
        if ("--quantize" in command or ".gguf" in command) and not all(
            map(find_spec, ("bitsandbytes", "gguf"))
        ):
            continue  # the extra `quantization` is not installed
        words = shlex.split(command.replace("make demo", "vram demo"))
        if document != "README.md" and words[1] == "plan" and "-o" not in words and not whole:
            continue  # half a minute each, for what another prints
        if document != "README.md" and words[1] in {"profile", "plan"}:
            words += ["--steps", "1"]  # what is typed is tried, at a fiftieth of the time
        done = CliRunner().invoke(app, words[1:], prog_name="vram")
        assert done.exit_code == 0, (command, done.output)
        printed = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        if document != "README.md":
            continue  # the guide shows what to type, the README what comes of it
        if pytestconfig.getoption("--update-goldens"):
            _show(document, command, output, printed)
        else:
            assert printed == output, command


def _show(document: str, command: str, old: str, new: str) -> None:
    path = ROOT / document
    before = f"$ {command}\n{old}\n" if old else f"$ {command}\n"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before, f"$ {command}\n{new}\n"), encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_piece_of_python_runs(document, here):
    for block in _blocks(document, "python"):
        exec(compile(block, document, "exec"), {})


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CHANGELOG.md",
        *sorted(f"docs/{one.name}" for one in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_between_documents_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [one for one in targets if not (ROOT / document).parent.joinpath(one).exists()]
    assert not missing


@pytest.mark.parametrize("command", ["profile", "plan"])
def test_the_help_names_a_single_file_as_the_guide_does(command):
    help_text = CliRunner().invoke(app, [command, "--help"], prog_name="vram").stdout
    (example,) = re.findall(r"Example: (vram \w+ my-model\..*?)\s*$", help_text, re.MULTILINE)
    shown = [one for block in _blocks("docs/guide.md", "console") for one in _commands(block)]
    assert (example, "") in shown
