"""What the documents show is run: every command, and every piece of Python."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/guide.md")


def _blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def _commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a block and the output shown below it, "" where none is shown."""
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [(command, output.rstrip()) for command, output in found]


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_tiny_pipeline(tmp_path / "my-pipeline")
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
        if "--quantize" in command and not all(map(find_spec, ("bitsandbytes", "gguf"))):
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
