"""What a user can get wrong: one clear line on standard error, exit code 2, nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.app import app


@pytest.fixture
def vram(tmp_path, monkeypatch):
    """Return a function that runs the command in a folder of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_tiny_pipeline(tmp_path / "tiny")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("no profile, no plan")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda *args: CliRunner().invoke(app, list(args), prog_name="vram")


BAD = {
    "an unknown model names close ones": (
        ["profile", "sdxl-bass"],
        r"unknown model 'sdxl-bass': did you mean .*sdxl-base",
    ),
    "a folder that is no pipeline": (
        ["profile", "../empty"],
        r"'../empty' is no diffusers pipeline: it has no model_index.json",
    ),
    "a hub id without network": (
        ["profile", "nobody/nothing"],
        r"cannot fetch 'nobody/nothing': .*cannot be reached",
    ),
    "a budget of apples": (
        ["plan", "sdxl-base", "--budget", "8 apples"],
        r"'8 apples' is not a size: write a number and a unit",
    ),
    "a budget without a unit": (["plan", "sdxl-base", "--budget", "8"], r"'8' is not a size"),
    "an unknown objective": (
        ["plan", "../tiny", "--budget", "8GiB", "--objective", "beauty"],
        r"'beauty'.*seconds, bytes, first-image",
    ),
    "a height that the pipeline refuses": (
        ["profile", "../tiny", "--height", "100"],
        r"StableDiffusionPipeline refuses the call: `height` and `width` have to be divisible",
    ),
    "an option that the pipeline does not take": (
        ["profile", "../tiny", "--frames", "16"],
        r"StableDiffusionPipeline takes no frames: drop --frames",
    ),
    "an argument that the pipeline does not take": (
        ["profile", "../tiny", "--set", "guidance=5"],
        r"takes no argument 'guidance': did you mean guidance_",
    ),
    "a setting without a value": (
        ["profile", "../tiny", "--set", "guidance_scale"],
        r"--set 'guidance_scale' is no setting: write KEY=VALUE",
    ),
    "a step count of zero": (["profile", "../tiny", "--steps", "0"], r"--steps 0 is not positive"),
    "an unknown GPU": (
        ["profile", "../tiny", "--gpu", "rtx-4091"],
        r"no GPU is called 'rtx-4091': did you mean rtx-4090",
    ),
    "a capacity below the context": (
        ["profile", "../tiny", "--capacity", "100MiB"],
        r"a capacity of .* leaves nothing beside the CUDA context",
    ),
    "an unknown mode": (
        ["profile", "../tiny", "--mode", "turbo"],
        r"'turbo' is no mode: choose one of",
    ),
    "a stream where nothing streams": (
        ["profile", "../tiny", "--stream"],
        r"--stream has no meaning in mode model",
    ),
    "an unknown dtype": (["profile", "../tiny", "--dtype", "int3"], r"unknown dtype 'int3'"),
    "an output in a folder that is not there": (
        ["profile", "../tiny", "-o", "nowhere/profile.parquet"],
        r"cannot write nowhere/profile.parquet: the folder .* does not exist",
    ),
    "an output that is a folder": (
        ["profile", "../tiny", "--html", ".."],
        r"cannot write \.\.: it is a folder",
    ),
    "a file that is no profile": (["report", "../words.txt"], r"words.txt.*(no|not a) .*profile"),
    "a profile that is not there": (["report", "absent.parquet"], r"absent.parquet"),
    "a plan from a file that is no profile": (
        ["plan", "../words.txt", "--budget", "8GiB"],
        r"words.txt.*(no|not a) .*profile",
    ),
    "a file that is no plan": (["verify", "../words.txt"], r"words.txt is not a plan"),
    "a list of nothing known": (
        ["list", "bananas"],
        r"cannot list 'bananas': choose one of models, gpus, plans",
    ),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_clear_line_and_writes_nothing(vram, args, message):
    done = vram(*args)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("vram: ")
    assert re.search(message, lines[0]), lines[0]
    assert list(Path.cwd().iterdir()) == []


def test_unwritable_output_is_refused_before_the_run(vram, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # Root may write into any folder of a disk, but not into the kernel's own.
    folder = Path("/proc") if os.geteuid() == 0 else locked
    done = vram("profile", "../tiny", "-o", str(folder / "profile.parquet"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.search(r"^vram: cannot write .*profile.parquet: ", done.stderr)


def test_output_is_checked_before_the_long_run(vram, monkeypatch):
    def must_not_run(*_args, **_options):
        pytest.fail("the model was run before its output was known to be writable")

    monkeypatch.setattr("profiler.sizing.size.profile_model", must_not_run)
    assert vram("profile", "../tiny", "-o", "nowhere/p.parquet").exit_code == 2


def test_debug_shows_the_traceback_wherever_it_stands(vram):
    before = vram("--debug", "list", "bananas")
    after = vram("list", "bananas", "--debug")
    for done in (before, after):
        assert done.exit_code == 2
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.strip().endswith("choose one of models, gpus, plans")


def test_unknown_option_is_wrong_usage(vram):
    done = vram("profile", "../tiny", "--hieght", "512")
    assert done.exit_code == 2
    assert "--height" in done.stderr


def test_the_installed_command_tells_it_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from profiler.cli import main; main()", "list", "bananas"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "vram: cannot list 'bananas': choose one of models, gpus, plans\n",
    )
