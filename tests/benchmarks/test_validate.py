"""`benchmarks/gpu/validate.py` in dry mode: the whole flow, with a virtual GPU in the place of the real one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import validate
import validation_cases
import validation_record
from apart import Apart, FailedError
from tiny_folder import write_tiny_pipeline
from validation_cases import Case

from profiler.errors import InputError

ROOT = Path(__file__).parents[2]


def test_a_dry_run_records_each_case_and_goes_on_where_it_was_cut_off(tmp_path):
    """Both sides are the same model, so nothing may differ: neither a byte nor a move, and every promise holds."""
    tiny = write_tiny_pipeline(tmp_path / "tiny")
    path = tmp_path / "v.json"
    words = ["--dry", "--models", f"{tiny},sdxl-bse", "-o", str(path)]
    validate.main([*words, "--only", "group-leaf-stream"])
    one = validation_record.load(path)
    entry, unknown = one["cases"].values()
    assert entry["mode"] == "group-leaf-stream"
    assert set(entry["errors"]["phases"]) >= {"encode", "denoise", "decode"}
    assert entry["measured"]["host_pinned_bytes"] > 0
    assert "unknown model 'sdxl-bse'" in unknown["failed"]

    validate.main([*words, "--only", "tiny:plan"])
    both = validation_record.load(path)
    assert list(both["cases"].values())[:2] == [entry, unknown]  # not run again
    assert [case["mode"] for case in both["cases"].values()][2:] == ["plan"]
    for case in (entry, both["cases"][f"{tiny}:plan"]):
        errors = case["errors"]
        assert all(errors["equal"].values())
        assert {errors[name] for name in ("allocated", "reserved", "device", "context")} == {0.0}
        assert case["measured"]["held"]["fits"]
    summary = both["summary"]
    assert (summary["cases"], summary["run"]) == (3, 2)
    assert (summary["promised"], summary["held"]) == (2, 2)
    assert both["dry"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "^validate: torch sees no GPU"),
        (["--dry"], "a dry run keeps nothing among the results"),
        (["--dry", "-o", str(ROOT / "pyproject.toml")], "is no record of a validation"),
    ],
)
def test_bad_input_is_one_line(words, message):
    with pytest.raises(SystemExit, match=message):
        validate.main(words)


def test_the_cases_cover_every_mode_and_lead_with_the_first_models(capsys):
    validate.main(["--list"])
    listed = capsys.readouterr().out.split()
    assert len(listed) == len(set(listed))
    assert len(listed) == len(validation_cases.MODELS) * 9 + 2
    assert {name.split(":")[0] for name in listed[:18]} == {"flux1-dev", "sdxl-base"}


def test_a_process_is_no_fork_of_one_that_imported_diffusers():
    """It asks torch for GPUs when it is imported, and from then on CUDA is refused in every fork."""
    import diffusers  # noqa: F401

    imported = "'diffusers' in __import__('sys').modules"
    assert not Apart(eval, imported).result(seconds=60)


def test_a_process_that_fails_hangs_or_dies_says_so():
    with pytest.raises(FailedError, match=r"ValueError at .*invalid literal"):
        Apart(int, "no number").result(seconds=60)
    with pytest.raises(FailedError, match="took longer than 0 s"):
        Apart(time.sleep, 60).result(seconds=0.1)
    with pytest.raises(FailedError, match=r"the process ended with 7"):
        Apart(os._exit, 7).result(seconds=60)
    assert Apart(int, "7").result(seconds=60) == 7


def test_errors_are_fractions_of_what_was_measured():
    predicted = {"peak_allocated_bytes": 110, "host_pinned_bytes": 0, "moves": 3, "complete": True}
    measured = {"peak_allocated_bytes": 100, "host_pinned_bytes": 0, "moves": 4, "complete": True}
    errors = validation_record.errors_of(predicted, measured)
    assert errors["allocated"] == pytest.approx(0.1)
    assert errors["pinned"] == 0.0
    assert errors["reserved"] is None
    assert errors["equal"]["complete"]
    assert not errors["equal"]["moves"]


def test_what_is_no_record_is_a_clear_error(tmp_path):
    path = tmp_path / "v.json"
    for text in ("{", "[]", "{}", json.dumps({"kind": "other", "schema_version": 1})):
        path.write_text(text)
        with pytest.raises(InputError, match="no record of a validation"):
            validation_record.load(path)


def test_a_case_is_named_by_what_it_does():
    case = Case(model="sd15", mode="tiling", call={"num_images_per_prompt": 4})
    assert case.id == "sd15:tiling+num_images_per_prompt=4"
    assert (case.placement.name, case.placement.vae_tiling) == ("model", True)
