"""What judges the records that scripts write on the stand-in; running them there is `make oracle`."""

import json

import oracle_records
import pytest


def written(tmp_path, record):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    return path


def test_a_validation_is_right_only_to_the_byte(tmp_path):
    errors = {"allocated": 0.0, "reserved": 0.0, "context": 0.0, "pinned": 0.0, "seconds": 9.0}
    right = {
        "errors": errors | {"phases": {"denoise": 0.0}, "equal": {"moves": True}},
        "measured": {"held": {"fits": True}},
    }
    wrong = {
        "errors": errors | {"reserved": 0.001, "phases": {}, "equal": {"moves": False}},
        "measured": {"held": {"fits": False}},
    }
    record = {"cases": {"a": right, "b": wrong, "c": {"failed": "it died"}}}
    assert list(oracle_records.of_validation(written(tmp_path, record))) == [
        "c failed: it died",
        "b: other than predicted: reserved, moves",
        "b: the promise did not hold",
    ]
    assert list(oracle_records.of_validation(written(tmp_path, {"cases": {}}))) == [
        "there are no cases"
    ]


def test_plans_fit_failures_keep_every_claim_and_the_tracer_takes_no_memory(tmp_path):
    fits = {"measured": {"fits": True}}
    plans = {"cases": {"a": fits, "b": {"measured": {"fits": False, "error": "out of memory"}}}}
    assert list(oracle_records.of_plans(written(tmp_path, plans))) == ["b: out of memory"]
    failures = {"cases": {"a": {}, "b": {}}, "summary": {"cases": 2, "adds_up": 1, "survived": 2}}
    assert list(oracle_records.of_failures(written(tmp_path, failures))) == ["adds_up: 1 of 2"]
    overhead = {
        "cases": {"a": {"ratio": 9.0, "device_peak_bytes": 512}, "b": {"device_peak_bytes": 0}}
    }
    assert list(oracle_records.of_overhead(written(tmp_path, overhead))) == [
        "a: the tracer takes {'device_peak_bytes': 512}"
    ]


def test_a_record_with_a_number_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds NaN"):
        oracle_records.read(written(tmp_path, {"seconds": float("nan")}))
