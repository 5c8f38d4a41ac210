"""`benchmarks/gpu/plans.py` in dry mode: every way to keep within a budget, and the ratios between them."""

import json
from pathlib import Path

import at_hand
import plan_record
import plan_runs
import plans
import pytest
from plan_cases import MANAGER, MMGP, MODEL_OFFLOAD, OURS, WAYS, Case
from tiny_folder import write_tiny_pipeline

from profiler.gpus.hardware import gpu_spec
from profiler.units import GIB, KIB

ROOT = Path(__file__).parents[2]
H200 = gpu_spec("h200")


def entry(way, seconds, *, fits=True, steps=4, output="image"):
    """Return what is kept of a case."""
    return {
        "model": "tiny",
        "budget_bytes": GIB,
        "way": way,
        "call": {"num_inference_steps": steps},
        "output": output,
        "measured": {"fits": fits, "steady_seconds": seconds},
    }


@pytest.mark.parametrize(
    "way", ["resident", MODEL_OFFLOAD, "group, by leaf, stream, low_cpu_mem", MANAGER]
)
def test_each_kind_of_way_gets_through_in_a_budget(way, tmp_path):
    tiny = str(write_tiny_pipeline(tmp_path / "tiny"))
    case = Case(model=tiny, budget_bytes=GIB, way=way)
    measured = plan_runs.run(case, None, H200.context_bytes, H200)["measured"]
    assert measured["fits"], measured
    assert measured["device_bytes"] <= GIB
    assert (measured["weight_bytes"] > 0) == (way != "resident")
    # What `.item()` and its like read through pinned memory is some bytes.
    assert (measured["host_pinned_bytes"] > KIB) == ("stream" in way)


def test_mmgp_is_left_out_with_the_reason():
    case = Case(model="sdxl-turbo", budget_bytes=8 * GIB, way=next(iter(MMGP)))
    assert "a virtual GPU has not" in plan_runs.why_skipped(case, H200)
    assert plan_runs.why_skipped(case, None) in ("", "mmgp is not installed (pip install mmgp)")


def test_what_does_not_fit_its_budget_says_so(tmp_path):
    tiny = str(write_tiny_pipeline(tmp_path / "tiny"))
    case = Case(model=tiny, budget_bytes=H200.context_bytes + (1 << 20), way=MODEL_OFFLOAD)
    measured = plan_runs.run(case, None, H200.context_bytes, H200)["measured"]
    assert not measured["fits"]
    assert measured["error"].startswith("OutOfMemoryError: CUDA out of memory")


def test_a_dry_run_makes_a_plan_keeps_it_and_goes_on(tmp_path, capsys):
    tiny, path = write_tiny_pipeline(tmp_path / "tiny"), tmp_path / "p.json"
    words = ["--dry", "--models", str(tiny), "--budgets", "1", "-o", str(path)]
    plans.main([*words, "--only", OURS])
    record = json.loads(path.read_text())
    (ours,) = record["cases"].values()
    assert record["dry"]
    assert ours["plan"]["kind"]
    assert ours["measured"]["fits"]
    assert ours["errors"]["bytes"] == 0.0
    assert "best, none fits" in capsys.readouterr().out

    plans.main([*words, "--only", f"1GiB:{MODEL_OFFLOAD}"])
    again = json.loads(path.read_text())
    assert next(iter(again["cases"].values())) == ours  # not run again
    (row,) = again["summary"]["ratios"]
    assert row["best"] == MODEL_OFFLOAD
    assert row["ours_to_best"] == row["ours_to_model_offload"] > 0


def test_the_plan_that_was_kept_promises_the_same_when_it_is_weighed_again(tmp_path):
    tiny = str(write_tiny_pipeline(tmp_path / "tiny"))
    profile = at_hand.run_without_limit(tiny, {"num_inference_steps": 2}, "model", H200)
    promise = plan_runs.promise_of_ours(profile, GIB, None)
    assert plan_runs.promise_of_recorded(profile, promise.record) == promise.figures
    none = plan_runs.promise_of_ours(profile, H200.context_bytes + 1, None)
    assert none.plan is None
    assert none.why_none


def test_ours_is_compared_with_the_best_that_fits_and_with_model_offload():
    cases = [
        entry(OURS, 2.0),
        entry(MODEL_OFFLOAD, 4.0),
        entry("resident", None, fits=False),
        entry("group, by leaf", 2.5),
    ]
    (row,) = plan_record.ratios_of(cases)
    assert (row["best"], row["ours_to_best"], row["ours_to_model_offload"]) == (
        "group, by leaf",
        0.8,
        0.5,
    )
    assert plan_record.over(cases) == []


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([entry(OURS, 3.0), entry("resident", 2.0)], "1.50 of resident"),
        ([entry(OURS, 3.0), entry(MODEL_OFFLOAD, 4.0)], "0.75 of model offload"),
        (
            [entry(OURS, None, fits=False), entry("resident", 2.0)],
            "resident fits, our plan does not",
        ),
    ],
)
def test_where_ours_is_too_slow_or_missing_it_is_told(cases, told):
    assert plan_record.over(cases) == [f"tiny in {GIB} bytes: {told}"]


def test_many_steps_and_videos_are_not_held_to_the_ratio_for_few_steps():
    for other in ({"steps": 20}, {"output": "video"}):
        cases = [entry(OURS, 3.0, **other), entry(MODEL_OFFLOAD, 4.0, **other)]
        assert plan_record.over(cases) == []


def test_the_cases_are_listed_and_bad_input_is_one_line(capsys, tmp_path):
    plans.main(["--list", "--models", "sdxl-turbo", "--budgets", "8,12"])
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "sdxl-turbo:8GiB:our plan"
    assert len(listed) == 2 * len(WAYS)
    with pytest.raises(SystemExit):
        plans.main(["--budgets", "8,x"])
    assert "numbers of GiB" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="is no record of measured plans"):
        plans.main(["--dry", "-o", str(ROOT / "pyproject.toml")])
