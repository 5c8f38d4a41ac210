"""What the documents show is run: every command, and every piece of Python."""

from __future__ import annotations

import re
import shlex
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
def test_every_command_runs_and_prints_what_is_shown(document, here):
    """`make demo` stands for the command behind it."""
    shown = [one for block in _blocks(document, "console") for one in _commands(block)]
    assert shown
    for command, output in shown:
        words = shlex.split(command.replace("make demo", "vram demo"))
        if words[0] != "vram":
            continue
        done = CliRunner().invoke(app, words[1:], prog_name="vram")
        assert done.exit_code == 0, (command, done.output)
        printed = [line.rstrip() for line in done.stdout.splitlines()]
        assert not output or "\n".join(printed).strip() == output, command


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
