"""What was once measured on a GPU, predicted again today: no prediction may have become worse. Needs no GPU.

Each `benchmarks/results/GPU/validate*.json` that `benchmarks/gpu/validate.py` wrote is read. Of each model the run
with everything on the GPU and the one with model offload are repeated; the other modes would take minutes. Of each
`plans*.json` of `benchmarks/gpu/plans.py` every row is, from one run of each model.
"""

from __future__ import annotations

import json
from pathlib import Path

import plan_record
import plan_runs
import pytest
import validation_record
from at_hand import run_without_limit
from plan_cases import MODEL_OFFLOAD, OURS, RESIDENT
from plan_cases import Case as PlanCase
from tiny_folder import write_tiny_pipeline
from validation_cases import Case
from validation_runs import measure, predict

from profiler.gpus.hardware import GpuSpec, gpu_spec, gpu_spec_of_properties
from profiler.units import GIB

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REPEATED = ("resident", "model")
WORSE_BY = 0.002  # of the measured figure: what an error may grow by before it counts as worse


def recorded_cases(folder):
    """Return (file, id of the case) of each recorded case that is repeated."""
    return [
        (path, name)
        for path in sorted(folder.glob("*/validate*.json"))
        for name, case in validation_record.load(path)["cases"].items()
        if case["mode"] in REPEATED and "measured" in case
    ]


def compare_again(path, name):
    """Return what became worse of one recorded case, a line each."""
    record = validation_record.load(path)
    entry = record["cases"][name]
    case = Case(model=entry["model"], mode=entry["mode"], call=entry["call"])
    today = validation_record.errors_of(predict(case, _gpu_spec(record)).figures, entry["measured"])
    then = entry["errors"]
    pairs = [(key, then[key], today[key]) for key in ("allocated", "reserved")]
    pairs += [(f"phase {key}", then["phases"][key], today["phases"][key]) for key in then["phases"]]
    worse = [
        f"{key}: {was:+.2%} when recorded, {now:+.2%} now"
        for key, was, now in pairs
        if was is not None and (now is None or abs(now) > abs(was) + WORSE_BY)
    ]
    return worse + [
        f"{key}: was as measured, is not any more"
        for key, was in then["equal"].items()
        if was and not today["equal"][key]
    ]


class _Properties:
    """What `torch.cuda.get_device_properties` gave on the recorded GPU."""

    def __init__(self, record):
        self.name = record["card"]
        self.major, self.minor = record["compute_capability"]
        self.total_memory = record["total_memory_bytes"]
        self.multi_processor_count = record["multi_processor_count"]
        self.L2_cache_size = 0


def _gpu_spec(record) -> GpuSpec:
    return gpu_spec_of_properties(_Properties(record))


def test_no_prediction_of_a_recorded_case_became_worse(subtests):
    for path, name in recorded_cases(RESULTS):
        with subtests.test(path=path.parent.name, case=name):
            assert compare_again(path, name) == []


def test_no_dry_run_is_kept_as_a_result():
    kept = [json.loads(path.read_text()) for path in RESULTS.glob("*/*.json")]
    assert not any(record.get("dry") for record in kept)


def recorded_plans(folder):
    """Return (file, model) of each file of measured plans and each model in it."""
    return [
        (path, model)
        for path in sorted(folder.glob("*/plans*.json"))
        for model in dict.fromkeys(one["model"] for one in measured_plans(path))
    ]


def measured_plans(path):
    """Return the entries that got through and were predicted."""
    cases = plan_record.PLANS.load(path)["cases"].values()
    return [one for one in cases if "errors" in one and one["predicted"] is not None]


def compare_plans_again(path, model):
    """Return what became worse of one model's rows, a line each."""
    entries = [one for one in measured_plans(path) if one["model"] == model]
    record = plan_record.PLANS.load(path)
    profile = run_without_limit(model, entries[0]["call"], "model", _gpu_spec(record))
    today = plan_runs.promises(profile)
    worse = []
    for one in entries:
        kept = one.get("plan")
        predicted = (
            today[one["way"]] if kept is None else plan_runs.promise_of_recorded(profile, kept)
        )
        now = plan_record.errors_of(predicted, one["measured"])
        worse += [
            f"{one['way']}: {key} {was:+.2%} when recorded, {_percent(now[key])} now"
            for key, was in one["errors"].items()
            if was is not None and (now[key] is None or abs(now[key]) > abs(was) + WORSE_BY)
        ]
    return worse


def _percent(error):
    return "not predicted" if error is None else f"{error:+.2%}"


def test_no_prediction_of_a_measured_plan_became_worse(subtests):
    for path, model in recorded_plans(RESULTS):
        with subtests.test(path=path.parent.name, model=model):
            assert compare_plans_again(path, model) == []


@pytest.fixture
def made_up(tmp_path):
    """Return the file of a record whose measurement was made on a virtual GPU: the format, and no result."""
    tiny = write_tiny_pipeline(tmp_path / "tiny")
    case = Case(model=str(tiny), mode="model")
    h200 = gpu_spec("h200")
    prediction = predict(case, h200)
    measured = measure(case, prediction, h200)
    record = {
        "kind": validation_record.VALIDATION.name,
        "schema_version": validation_record.VALIDATION.schema_version,
        "dry": True,
        "card": h200.name,
        "compute_capability": list(h200.compute_capability),
        "multi_processor_count": h200.multi_processor_count,
        "total_memory_bytes": h200.capacity_bytes,
        "cases": {
            case.id: {
                **case.as_json(),
                "predicted": prediction.figures,
                "measured": measured,
                "errors": validation_record.errors_of(prediction.figures, measured),
            }
        },
    }
    path = tmp_path / "made-up" / "validate.json"
    validation_record.save(record, path)
    return path


def test_a_prediction_that_is_as_it_was_passes_and_one_that_drifted_is_told(made_up):
    ((path, name),) = recorded_cases(made_up.parents[1])
    assert path == made_up
    assert compare_again(path, name) == []
    record = validation_record.load(path)
    measured = record["cases"][name]["measured"]
    measured["peak_allocated_bytes"] = int(measured["peak_allocated_bytes"] * 1.01)
    measured["h2d_weight_bytes"] += 1
    validation_record.save(record, path)
    assert compare_again(path, name) == [
        "allocated: +0.00% when recorded, -0.99% now",
        "h2d_weight_bytes: was as measured, is not any more",
    ]


@pytest.fixture
def made_up_plans(tmp_path):
    """Return the file of measured plans whose measurements were made on a virtual GPU: the format, and no result."""
    tiny, h200 = str(write_tiny_pipeline(tmp_path / "tiny")), gpu_spec("h200")
    cases = [
        PlanCase(model=tiny, budget_bytes=GIB, way=way) for way in (OURS, MODEL_OFFLOAD, RESIDENT)
    ]
    profile = run_without_limit(tiny, cases[0].call, "model", h200)
    ours = plan_runs.promise_of_ours(profile, GIB, None)
    entries = {}
    for case in cases:
        mine = case.way == OURS
        predicted = ours.figures if mine else plan_runs.promises(profile)[case.way]
        found = plan_runs.run(case, ours.plan if mine else None, h200.context_bytes, h200)
        entries[case.id] = {
            **case.as_json(),
            **found,
            **({"plan": ours.record} if mine else {}),
            "output": "image",
            "predicted": predicted,
            "errors": plan_record.errors_of(predicted, found["measured"]),
        }
    record = {
        "kind": plan_record.PLANS.name,
        "schema_version": plan_record.PLANS.schema_version,
        "dry": True,
        "card": h200.name,
        "compute_capability": list(h200.compute_capability),
        "multi_processor_count": h200.multi_processor_count,
        "total_memory_bytes": h200.capacity_bytes,
        "cases": entries,
    }
    path = tmp_path / "made-up" / "plans.json"
    plan_record.PLANS.save(record, path)
    return path


def test_a_plan_s_prediction_that_is_as_it_was_passes_and_one_that_drifted_is_told(made_up_plans):
    ((path, model),) = recorded_plans(made_up_plans.parents[1])
    assert len(measured_plans(path)) == 3
    assert compare_plans_again(path, model) == []
    record = plan_record.PLANS.load(path)
    offloaded = next(one for one in record["cases"].values() if one["way"] == MODEL_OFFLOAD)
    assert offloaded["errors"]["bytes"] == 0.0
    offloaded["measured"]["weight_bytes"] *= 2
    plan_record.PLANS.save(record, path)
    assert compare_plans_again(path, model) == [
        "model offload: bytes +0.00% when recorded, -50.00% now"
    ]
