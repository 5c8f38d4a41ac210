"""What a measured run says of its machine; a virtual GPU beside a made-up slow host stands in for a measurement."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.calibrating import evidence, learn
from profiler.cli.app import app
from profiler.errors import InputError
from profiler.gpus import calibration
from profiler.gpus.calibration import with_fitted
from profiler.gpus.calibration_table import Fitted, load
from profiler.gpus.hardware import gpu_spec
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.record.profile import Profile
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_model
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

USUAL = gpu_spec("rtx-4090")
SLOW = Fitted(
    launch_seconds=150e-6,
    kernels=1.0,
    h2d_bytes_per_second=2e9,
    d2h_bytes_per_second=0.8e9,
    fitted_on=(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def measured(folder):
    """A profile as if it were measured on the slow host; its launches decide, and its moves are of some bytes."""
    with VirtualGPU(with_fitted(USUAL, SLOW)):
        pipe = load_pipeline(folder, dtype="float16")
        size = {"height": 64, "width": 64, "num_inference_steps": 2}
        profile = profile_pipeline(pipe, mode=Mode(name="model"), **size)
    return replace(profile, source="measured", model=folder, dtype="float16")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setenv("VRAM_CALIBRATION", str(folder))
    calibration.forget()
    yield folder
    monkeypatch.undo()
    calibration.forget()


@pytest.fixture(scope="module")
def learnt(measured):
    return learn([measured])


def test_a_slow_host_is_found_and_what_a_call_cannot_tell_stays(learnt):
    after = learnt.after
    assert after.launch_seconds == pytest.approx(SLOW.launch_seconds, rel=0.1)
    # No kernel of so small a pipeline takes as long as its launch.
    assert after.kernels == pytest.approx(1.0, abs=0.05)
    assert (learnt.miss_before > 0.8, learnt.miss_after < 0.05) == (True, True)


def test_predictions_use_what_was_learnt(measured, learnt, folder, place):
    path = evidence.keep(learnt)
    assert (path.parent, load(path).fitted) == (place, learnt.after)
    size = {"height": 64, "width": 64, "steps": 2}
    scenario = Scenario(model=folder, gpu="rtx-4090", dtype="float16", **size)
    predicted = profile_model(scenario)
    seconds = measured.totals.seconds
    assert predicted.totals.seconds == pytest.approx(seconds, rel=0.1)
    assert (
        predicted.seconds_band < 0.2 < profile_model(replace(scenario, gpu="rtx-4080")).seconds_band
    )
    # Only seconds: no figure of memory moves.
    assert predicted.totals.peak_allocated_bytes == measured.totals.peak_allocated_bytes
    # A time that is named comes before one that was learnt.
    fast = profile_model(replace(scenario, host_launch=10))
    assert fast.totals.seconds < predicted.totals.seconds


def test_the_command_tells_what_changed(measured, tmp_path, place, monkeypatch, learnt):
    monkeypatch.setattr("profiler.calibrating.learn", lambda *_, **__: learnt)
    file = tmp_path / "measured.parquet"
    measured.save(file)
    done = CliRunner().invoke(app, ["calibrate", "--from", str(file)])
    assert done.exit_code == 0, done.output
    assert "NVIDIA GeForce RTX 4090: learnt from 1 call" in done.output
    assert "µs per kernel" in done.output
    done = CliRunner().invoke(app, ["calibrate", "--from", str(file), "--json"])
    found = json.loads(done.stdout)
    assert found["after"]["launch_seconds"] == learnt.after.launch_seconds
    assert [one.name for one in place.iterdir()] == ["sm_89-nvidia-geforce-rtx-4090.toml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "predicted"}, "a prediction says nothing"),
        ({"complete": False}, "did not end"),
        ({"mode": "group-leaf"}, "not recorded completely"),
        ({"model": ""}, "name it with --models"),
    ],
)
def test_a_profile_that_cannot_tell_is_refused(measured, change, words):
    with pytest.raises(InputError, match=words):
        learn([replace(measured, **change)])


def test_profiles_of_several_gpus_are_refused(measured):
    other = replace(measured, gpu=replace(measured.gpu, name="NVIDIA GeForce RTX 3090"))
    with pytest.raises(InputError, match="of one GPU"):
        learn([measured, other])


def test_a_file_that_is_no_profile_and_options_that_make_no_sense_are_told(tmp_path):
    file = tmp_path / "none.parquet"
    file.write_text("nothing")
    for words in (["--from", str(file)], ["--from", str(file), "--dry"]):
        done = CliRunner().invoke(app, ["calibrate", *words])
        assert (done.exit_code, "Traceback" in done.output) == (2, False), done.output


def test_what_was_learnt_is_seen_in_the_file(learnt, tmp_path):
    path = evidence.keep(learnt, tmp_path / "mine.toml")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"kernels = {learnt.after.kernels!r}", "kernels = -1.0"))
    with pytest.raises(InputError, match="no positive number"):
        load(path)


def test_a_profile_says_what_of_it_took_how_long(measured):
    assert isinstance(measured, Profile)
    found = evidence.observed(measured)
    assert {"onload", "offload", "forwards of unet"} <= set(found)
    assert sum(found.values()) <= measured.totals.seconds
