"""Names and errors are shown to the letter: rich takes nothing for markup, and nothing steers the terminal."""

from __future__ import annotations

import dataclasses
import re
from io import StringIO

import pytest
from profile_worlds import sdxl_model_offload
from rich.console import Console
from terminals import terminal
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

import reports
from profiler.cli import doctor as doctor_command
from profiler.cli import printing
from profiler.cli.app import app
from profiler.sizing.doctor import Check

# Markup, the end of none, an emoji's code, a colour, a window's title, mathematics, a line break, a reversed direction.
HOSTILE = "[bold]:bomb:[/]\x1b[31m\x1b]0;title\x07$x_$\nno\u202e"
SHOWN = r"[bold]:bomb:[/]\x1b[31m\x1b]0;title\x07$x_$\nno\u202e"
SMALL = ("--steps", "1", "--height", "64", "--width", "64")


def controls(text):
    return re.findall(r"[^\n\x20-\x7e\xa0-\u2027\u2030-\uffff]", text)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder whose only pipeline has a hostile name."""
    folder = tmp_path_factory.mktemp("here")
    write_tiny_pipeline(folder / HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def vram(*words, code=0):
    done = CliRunner().invoke(app, list(words), prog_name="vram")
    assert done.exit_code == code, done.output
    assert controls(done.stdout + done.stderr) == []
    return done


def test_a_model_with_a_hostile_name_goes_through_every_command(here):
    model = f"./{HOSTILE}"
    profiled = vram("profile", model, *SMALL, "-o", "p", "--png", "p.png").stdout
    planned = vram("plan", model, *SMALL, "--budget", "8GiB", "-o", "plan").stdout
    for shown in (profiled, planned):
        assert f"./{SHOWN}" in shown
    vram("report", "p", "--plan", "plan", "--png", "r.png", "-o", "[b]page.html")
    assert "[b]page.html" in vram("report", "p", "-o", "[b]page.html").stdout
    assert "\x1b" not in (here / "[b]page.html").read_text()
    vram("verify", "plan")
    refused = vram("profile", model, "--frames", "2", "--set", "[/]=2", code=2).stderr
    assert "[/]=2" in refused
    (here / HOSTILE / "model_index.json").write_text('{"_class_name": "[/]\\u001b[31mPipeline"}')
    assert r"[/]\x1b[31mPipeline" in vram("profile", model, code=2).stderr


def test_the_spinner_tells_names_to_the_letter():
    with terminal(200, stream="stderr") as screen, printing.progress() as report:
        report(f"building {HOSTILE}")
    assert f"building {SHOWN}" in screen[0]


@pytest.mark.parametrize("columns", [40, 200])
def test_tables_and_lines_are_text_on_a_terminal(columns, monkeypatch):
    check = Check("files", "problem", f"{HOSTILE} is in the way", "x" * 100 + f" {HOSTILE}")
    monkeypatch.setattr("profiler.sizing.doctor.examine", lambda: (check,))
    with terminal(columns) as screen:
        printing.answer(f"wrote {HOSTILE}")
        printing.answer_table([{"name": HOSTILE}], columns=("name",))
        with pytest.raises(doctor_command.typer.Exit):
            doctor_command.doctor()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", screen[0])
    assert controls(shown) == []
    # An answer keeps its line breaks; a cell and a name in it has none.
    assert shown.startswith("wrote " + SHOWN.replace(r"\n", "\n"))
    assert "x" * 100 + f" {SHOWN}" in shown
    assert SHOWN in shown.replace(" \n", "").replace("\n", "")


def as_text(profile, columns):
    console = Console(
        width=columns,
        record=True,
        highlight=False,
        force_terminal=True,
        file=StringIO(),
    )
    console.print(reports.render_text(profile), crop=False)
    return console.export_text()


@pytest.mark.parametrize("columns", [40, 400])
def test_a_report_of_hostile_text_is_text(columns):
    plain = sdxl_model_offload(steps=2)
    parts = tuple(
        dataclasses.replace(one, class_name=HOSTILE, dtype="[/]") for one in plain.components
    )
    gpu = dataclasses.replace(plain.gpu, name=HOSTILE)
    bill = tuple(dataclasses.replace(one, what=HOSTILE) for one in plain.bill)
    profile = dataclasses.replace(
        plain,
        components=parts,
        gpu=gpu,
        bill=bill,
        model=HOSTILE,
        pipeline_class=HOSTILE,
        call={"prompt": HOSTILE},
        versions={"torch": HOSTILE},
        complete=False,
        error=f"{HOSTILE} out of memory",
    )
    shown = as_text(profile, columns)
    assert controls(shown) == []
    if columns == 400:
        assert shown.count("[bold]:bomb:[/]") >= 3 + len(bill) + len(parts)


def test_a_fix_is_one_line_however_narrow_the_terminal():
    profile = sdxl_model_offload(steps=2)
    fixes = [finding.fix for finding in profile.findings]
    assert max(map(len, fixes)) > 40
    lines = as_text(profile, 40).splitlines()
    assert [fix for fix in fixes if fix not in lines] == []
