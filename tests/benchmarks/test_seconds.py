"""The published seconds: rows are read as they are meant, and the fit's own reckoning meets the virtual GPU's."""

from __future__ import annotations

import csv

import pytest
import torch
from tiny_folder import write_tiny_pipeline

from benchmarks.seconds import Result, summaries
from benchmarks.seconds_fit import Case, Constants
from benchmarks.seconds_rows import Row, rows_of, run
from profiler.gpus.cost_model import cost_model

COLUMNS = [
    "id",
    "source",
    "card",
    "config",
    "mode",
    "dtype",
    "steps",
    "height",
    "width",
    "frames",
    "batch",
    "guidance_scale",
    "seconds",
    "what",
    "compiled",
    "comments",
]


def row(**changes):
    """Return a row of a tiny pipeline."""
    size = {"height": 64, "width": 64}
    plain = Row(
        "a",
        "s",
        "rtx-4090",
        "tiny",
        "resident",
        "float16",
        6,
        size,
        1.0,
        is_step=False,
        comments="",
    )
    return plain._replace(**changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_tiny_pipeline(root / "tiny")
    return root


def test_rows_are_read_with_what_their_comments_say(tmp_path):
    file = tmp_path / "seconds.csv"
    values = {
        "one": "one a t4 sd15 resident+tiling fp16 50 512 512 - 4 0.0 2.5 step no channels_last",
        "two": "two a t4 sd15 model bf16 20 512 512 9 1 default 9 call no without resolution binning",
        "three": "three a t4 sd15 full bf16 20 512 512 - 1 default 9 call yes -",
    }
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for text in values.values():
            writer.writerow("" if one == "-" else one for one in text.split(maxsplit=15))
    (one, two), compiled = rows_of(file)
    assert compiled == ["three"]
    size = {"height": 512, "width": 512}
    assert (one.mode, one.kind, one.dtype, one.is_step) == (
        "resident+tiling",
        "resident",
        "float16",
        True,
    )
    assert one.call == {**size, "num_images_per_prompt": 4, "guidance_scale": 0.0}
    assert two.call == {**size, "num_frames": 9, "use_resolution_binning": False}


@pytest.mark.parametrize("mode", ["resident", "model", "sequential"])
def test_a_tape_gives_the_seconds_of_the_virtual_gpu(mode, folder):
    one = row(mode=mode)
    case = Case(one, folder)
    spec = case.spec
    model = cost_model(spec.generation, spec.flops_per_second, spec.link)
    predicted = run(one, one.steps, folder).totals.seconds
    assert case.seconds(model) == pytest.approx(predicted, rel=0.01)


def test_a_run_leaves_torch_as_it_was(folder):
    before = (torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled())
    run(row(comments="TF32"), 1, folder)
    now = (torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled())
    assert now == before


def test_a_fit_finds_the_constants_that_made_the_seconds_and_stays_where_nothing_tells(folder):
    """Launches twice as long are found; the rates of kernels, which such small ones hardly show, stay."""
    case = Case(row(), folder)
    constants = Constants([case])
    slow = constants.starts | {("launch_seconds", ""): 2 * constants.starts["launch_seconds", ""]}
    seconds = case.seconds(constants.model(case, slow))
    case.row = case.row._replace(seconds=seconds)
    found = constants.fit([case])
    start = constants.starts["launch_seconds", ""]
    assert 1.4 * start < found["launch_seconds", ""] < 2 * start  # held back by its start
    assert found["product", "ada-cut"] == pytest.approx(
        constants.starts["product", "ada-cut"], rel=0.01
    )


def test_summaries_count_what_lies_inside_the_band():
    def result(published, predicted):
        return Result(
            "a",
            "t4",
            "turing",
            "resident",
            "float16",
            "UNet",
            "kernels",
            published,
            predicted,
            0.25,
            0.2,
        )

    table = summaries([result(1.0, 1.0), result(1.24, 1.0), result(1.3, 1.0), result(0.79, 1.0)])
    everything = table["all"]["rows"]
    assert (everything["rows"], everything["inside_band"]) == (4, 0.5)
    assert everything["within_20_percent"] == 0.25
    assert everything["widest_band"] == pytest.approx(1.25 / 0.8)
