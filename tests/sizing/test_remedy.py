"""What is told beyond a run that does not fit: how big a GPU, what would have fitted, and fixes that were tried."""

import dataclasses
import io
import shlex
from functools import cache

from rich.console import Console
from typer.testing import CliRunner

import reports
from profiler.cli.app import app
from profiler.errors import InputError
from profiler.gpus import hardware
from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.record.trial import Trial
from profiler.record.verdict import verdict
from profiler.sizing import remedy
from profiler.sizing.checked_fixes import with_checked_fixes
from profiler.sizing.remedy import with_remedy
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import profile_model
from profiler.tracing import profile_pipeline
from profiler.units import GIB, MIB, format_bytes
from profiler.virtual import VirtualGPU
from reports import story

CONTEXT = 400 * MIB


SMALL = Scenario(model="sd15", gpu="rtx-4090", height=256, width=256, steps=1)


def out_of_memory(profile):
    """Return the finding of a run that ran out of memory."""
    return next(one for one in profile.findings if one.kind == "out_of_memory")


@cache
def resident_on(room):
    """Return the scenario and its profile, with a remedy, of everything on a GPU that is too small for it."""
    capacity = f"{CONTEXT + room}B"
    scenario = dataclasses.replace(SMALL, capacity=capacity, mode=Mode(name="resident"))
    return scenario, with_remedy(profile_model(scenario), scenario)


def test_what_would_have_fitted_is_told_with_a_line_that_makes_it_fit():
    scenario, profile = resident_on(2200 * MIB)
    failure, found = profile.failure, out_of_memory(profile)
    assert failure.remedy.startswith("A plan would have fitted")
    assert failure.remedy in found.detail
    assert found.fix == failure.remedy_code
    with VirtualGPU(scenario.gpu_spec()), quiet():
        pipe = load_pipeline("sd15")
        exec(found.fix, {"pipe": pipe})
        assert profile_pipeline(pipe, height=256, width=256, num_inference_steps=1).complete


def test_how_big_a_gpu_is_told_everywhere():
    """The smallest listed GPU runs the call as it is, with what is said to be needed there."""
    scenario, profile = resident_on(2200 * MIB)
    whole = profile.failure.whole
    assert whole.device_bytes > scenario.gpu_spec().capacity_bytes
    listed = hardware.gpu_spec(whole.gpu)
    there = profile_model(dataclasses.replace(scenario, gpu=listed.key, capacity=None))
    assert verdict(there).answer in ("fits", "tight")
    assert verdict(there).needed_bytes == whole.gpu_device_bytes
    smaller = [one for one in hardware.gpu_specs() if one.capacity_bytes < listed.capacity_bytes]
    assert all(one.capacity_bytes < whole.gpu_device_bytes for one in smaller)
    told = story.how_big(profile)
    assert format_bytes(whole.device_bytes) in told
    assert whole.gpu in told
    shown = Console(width=400, record=True, file=io.StringIO())
    shown.print(reports.render_text(profile))
    assert told in shown.export_text()
    assert told in reports.render_html(profile)
    assert profile.summary()["failure"]["whole"]["gpu"] == whole.gpu
    assert told in out_of_memory(profile).detail


def test_a_remedy_is_for_the_run_as_it_was():
    """Its tiles, slices and casts stay, and nothing that is on already is offered as a change."""
    mode = Mode(name="group-leaf", stream=True, vae_tiling=True, layerwise_casting=True)
    whole = mode.unsplit
    assert whole == Mode(name="model", vae_tiling=True, layerwise_casting=True)
    scenario = dataclasses.replace(SMALL, mode=whole, batch=2, frames=9)
    offered = [(words, what) for words, what, _ in remedy._changed(scenario, "float16")]
    assert offered == [
        ("the VAE decoding image by image", {"vae_slicing": True}),
        ("height 128, width 128, frames 5", {"size": "smaller"}),
    ]
    for _, _, changed in remedy._changed(scenario, "float16"):
        assert changed.mode.vae_tiling
        assert changed.mode.layerwise_casting
    assert "--vae-tiling --layerwise-casting" in remedy._command(scenario, GIB)


def test_where_nothing_fits_as_it_is_the_change_with_which_a_plan_does_is_told():
    whole = dataclasses.replace(SMALL, dtype="float32", height=768, width=768)
    scenario = dataclasses.replace(whole, capacity=f"{CONTEXT + 2000 * MIB}B")
    profile = with_remedy(profile_model(scenario), scenario)
    failure, found = profile.failure, out_of_memory(profile)
    assert "Nothing fits as it is. With " in failure.remedy, failure.remedy
    assert failure.remedy in found.detail
    assert any(option in found.fix for option in ("--vae-tiling", "--dtype float16")), found.fix


def test_fixes_are_tried_before_they_are_told():
    """What a finding says of its fix is what a run with it shows."""
    scenario = dataclasses.replace(SMALL, mode=Mode(name="sequential"))
    profile = with_checked_fixes(profile_model(scenario), scenario)
    resident = profile_model(dataclasses.replace(scenario, mode=Mode(name="resident")))
    (trial,) = profile.trials
    assert trial == Trial(
        changes={"mode": "resident"},
        fits=True,
        device_bytes=resident.totals.device_bytes,
        seconds=resident.totals.seconds,
    )
    (found,) = [one for one in profile.findings if one.kind == "everything_fits"]
    assert f"Tried on the virtual GPU: {format_bytes(trial.device_bytes)}" in found.detail


def test_a_fix_that_fails_when_it_is_tried_makes_way(monkeypatch):
    scenario = dataclasses.replace(SMALL, mode=Mode(name="sequential"))
    profile = profile_model(scenario)
    assert profile.findings[0].changes == {"mode": "resident"}

    def refused(*_, **__):
        raise InputError("no")

    monkeypatch.setattr("profiler.sizing.checked_fixes.profile_model", refused)
    checked = with_checked_fixes(profile, scenario)
    assert not any(trial.fits for trial in checked.trials if trial.changes["mode"] != "plan")
    assert {"mode": "resident"} not in [dict(one.changes) for one in checked.findings]


def test_a_plan_of_many_lines_is_told_by_the_command_that_prints_it():
    vram, *words = shlex.split(resident_on(2400 * MIB)[1].failure.remedy_code)
    done = CliRunner().invoke(app, words)
    assert (vram, done.exit_code) == ("vram", 0)
    assert "pipe.enable_model_cpu_offload()" in done.stdout


def test_where_nothing_fits_it_is_said_by_how_much():
    scenario = dataclasses.replace(SMALL, capacity=f"{CONTEXT + 200 * MIB}B")
    profile = with_remedy(profile_model(scenario), scenario)
    failure, found = profile.failure, out_of_memory(profile)
    assert failure.remedy.startswith("No plan fits")
    assert failure.remedy_code == ""
    assert found.fix
