"""One run answers for many GPUs: the answer is that of each GPU's own run, to the byte and the second."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from daily import daily
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.app import app
from profiler.errors import InputError
from profiler.gpus.hardware import gpu_spec, gpu_specs
from profiler.libraries.modes import Mode
from profiler.record.verdict import DOES_NOT_FIT, FITS, TIGHT, verdict
from profiler.sizing.every_gpu import profile_on_gpus
from profiler.sizing.runs import profile_on
from profiler.sizing.scenario import Scenario
from profiler.units import MIB

SOME = "gtx-1070,t4,rtx-2060,rtx-3060,rtx-3090,rtx-4060,rtx-4090,h200"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")))


def told_alone(scenario, spec):
    """Return what a run on the GPU itself says: answer, bytes, seconds and band; the answer alone if it ended early."""
    profile = profile_on(scenario, spec)
    answer, needed_bytes, _, spare_bytes = verdict(profile)
    if answer not in (FITS, TIGHT):
        return answer
    totals = profile.totals
    peaks = (totals.peak_allocated_bytes, totals.peak_reserved_bytes)
    band = (profile.seconds_band, profile.seconds_band_below)
    return answer, needed_bytes, spare_bytes, *peaks, totals.seconds, *band


def told_together(row):
    if not row.fits:
        return row.answer
    peaks = (row.peak_allocated_bytes, row.peak_reserved_bytes)
    band = (row.seconds_band, row.seconds_band_below)
    return row.answer, row.needed_bytes, row.spare_bytes, *peaks, row.seconds, *band


def check_alike(scenario, specs):
    rows = profile_on_gpus(scenario, specs)
    assert [row.gpu for row in rows] == [one.key for one in specs]
    assert list(map(told_together, rows)) == [told_alone(scenario, one) for one in specs]
    return rows


@pytest.mark.parametrize("mode", ["resident", "model"])
def test_the_answer_is_that_of_each_gpus_own_run(tiny, mode):
    specs = sorted(map(gpu_spec, SOME.split(",")), key=gpu_specs().index)
    scenario = Scenario(model=tiny, mode=Mode(name=mode), steps=2, height=64, width=64)
    rows = check_alike(scenario, specs)
    assert len({row.run_on for row in rows}) == len({one.compute_capability for one in specs})


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["resident", "model"])
def test_the_answer_is_that_of_every_gpus_own_run(mode):
    """SD 1.5 at full size: reductions and cuDNN's workspaces do differ here."""
    check_alike(Scenario(model="sd15", mode=Mode(name=mode), steps=3), list(gpu_specs()))


def test_a_gpu_that_holds_what_is_allocated_but_not_what_is_cached_runs_by_itself(tiny):
    """From too small to large enough, on both sides of what is allocated and of what is reserved."""
    spec = gpu_spec("rtx-4060")
    scenario = Scenario(model=tiny, mode=Mode(name="model"), steps=2)
    peaks = profile_on(scenario, spec).totals
    between = peaks.peak_reserved_bytes - peaks.peak_allocated_bytes
    rooms = [
        peaks.peak_allocated_bytes // 3,
        peaks.peak_allocated_bytes - 2 * MIB,
        peaks.peak_allocated_bytes + between // 2,
        peaks.peak_reserved_bytes - MIB,
        peaks.peak_reserved_bytes,
        peaks.peak_reserved_bytes + MIB,
    ]
    specs = [replace(spec, capacity_bytes=spec.context_bytes + room) for room in rooms]
    rows = check_alike(scenario, specs)
    assert rows[0].answer == DOES_NOT_FIT
    assert all(row.spare_bytes < 0 for row in rows if not row.fits)
    assert rows[-1].fits


def test_a_run_that_goes_by_time_is_shared_by_no_gpu(tiny):
    """What `record_stream` holds back until a stream has passed depends on how fast the GPU is."""
    specs = [gpu_spec(name) for name in ("rtx-4060", "rtx-4070", "rtx-4090")]
    mode = Mode(name="group-leaf", stream=True, record_stream=True)
    rows = check_alike(Scenario(model=tiny, mode=mode, steps=2), specs)
    assert [row.run_on for row in rows] == [one.key for one in specs]


@pytest.mark.parametrize("mode", daily(["group-leaf"], ["group-leaf", "sequential", "group-block"]))
def test_other_modes_are_shared_alike(tiny, mode):
    specs = [gpu_spec(name) for name in ("rtx-4060", "rtx-4070", "rtx-4090")]
    streamed = mode == "group-leaf"
    placed = Mode(name=mode, stream=streamed, blocks=1 if mode == "group-block" else None)
    rows = check_alike(Scenario(model=tiny, mode=placed, steps=2), specs)
    assert {row.run_on for row in rows} == {"rtx-4060"}


def test_the_command_prints_a_row_for_each_gpu(tiny):
    said = CliRunner().invoke(
        app, ["profile", tiny, "--gpu", "rtx-4090,rtx-4060", "--steps", "1"], prog_name="vram"
    )
    assert said.exit_code == 0
    assert [line.split()[0] for line in said.stdout.splitlines()[:3]] == [
        "gpu",
        "rtx-4060",
        "rtx-4090",
    ]
    assert said.stdout.splitlines()[-1] == (
        "fits 2 of 2 GPUs; rtx-4060 the smallest; taken from 1 run"
    )
    assert max(map(len, said.stdout.splitlines()[:3])) <= 80
    command = ["profile", tiny, "--gpu", "rtx-4060,rtx-4090", "--steps", "1", "--json"]
    found = json.loads(CliRunner().invoke(app, command, prog_name="vram").stdout)
    assert [row["gpu"] for row in found["gpus"]] == ["rtx-4060", "rtx-4090"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["profile", "sd15", "--gpu", "all", "--html", "a.html"], "--html is about one GPU"),
        (["profile", "sd15", "--gpu", "all", "--capacity", "8GiB"], "drop it"),
        (["profile", "sd15", "--gpu", "rtx-4090,nope"], "no GPU is called 'nope'"),
        (["plan", "sd15", "--gpu", "all", "--budget", "8GiB"], "a plan is about one GPU"),
    ],
)
def test_what_is_about_one_gpu_refuses_several(words, says):
    said = CliRunner().invoke(app, words, prog_name="vram")
    assert said.exit_code == 2
    assert says in said.stderr


def test_no_gpu_at_all_is_refused():
    with pytest.raises(InputError, match="no GPU is named"):
        profile_on_gpus(Scenario(model="sd15"), [])
