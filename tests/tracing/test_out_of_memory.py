"""`benchmarks/gpu/out_of_memory.py` in dry mode: a pipeline is made to fail everywhere, and works afterwards."""

import json

import at_hand
import forced_failures
import out_of_memory
import pytest
from tiny_folder import write_tiny_pipeline

from profiler.gpus.hardware import gpu_spec

CALL = {"num_inference_steps": 1, "height": 256, "width": 256}
# Wide enough for weights and activations of more than a segment of the allocator.
WIDE = {
    "unet": {"block_out_channels": [128, 256], "cross_attention_dim": 256},
    "text_encoder": {"hidden_size": 256, "intermediate_size": 1024},
    "vae": {"block_out_channels": [64, 128]},
}

FORCED = (
    "resident:place:text_encoder.onload",
    "resident:place:unet.onload",
    "resident:denoise:unet.forward",
    "resident:decode:vae.decode",
    "model:encode:text_encoder.onload",
    "model:denoise:unet.onload",
    "sequential:decode:vae.decode",
)


def write_wide_pipeline(folder):
    write_tiny_pipeline(folder)
    for name, change in WIDE.items():
        path = folder / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_wide_pipeline(tmp_path_factory.mktemp("wide") / "wide")


def test_each_forced_failure_is_told_and_the_pipe_works_under_the_plan_that_fits(model):
    h200 = gpu_spec("h200")
    moments = {
        moment.id: moment
        for mode in forced_failures.MODES
        for moment in forced_failures.moments_of(model, CALL, mode, h200)
    }
    whole = at_hand.run_without_limit(model, CALL, "model", h200)
    plan = forced_failures.plan_within(whole, forced_failures.least_budget_bytes(whole))
    for name in FORCED:
        found = forced_failures.fail(model, CALL, moments[name], plan, h200)
        assert not found["complete"], name
        told = {claim: found[claim] for claim in out_of_memory.CLAIMS}
        assert told == dict.fromkeys(out_of_memory.CLAIMS, True), (name, found)


def test_a_limit_lies_between_what_is_there_and_what_is_needed(model):
    for moment in forced_failures.moments_of(model, CALL, "resident", gpu_spec("h200")):
        assert moment.before_bytes < moment.limit_bytes < moment.peak_bytes


def test_moments_are_taken_from_each_mode_in_turn():
    assert out_of_memory.chosen([["a", "b", "c"], ["d"]], 3) == ["a", "d", "b"]


def test_a_dry_run_forces_what_is_left_in_processes_of_their_own(model, tmp_path, capsys):
    path = tmp_path / "o.json"
    words = ["--dry", "--model", model, "--steps", "1", "-o", str(path)]
    out_of_memory.main([*words, "--only", "resident:place:unet.onload"])
    record = json.loads(path.read_text())
    (entry,) = record["cases"].values()
    assert entry["said"] == "place:unet.onload"
    assert record["summary"] == dict.fromkeys(record["summary"], 1)
    assert "works_after: yes" in capsys.readouterr().out


def test_what_failed_and_what_did_not_is_counted():
    held = dict.fromkeys(out_of_memory.CLAIMS, True) | {"complete": False}
    summary = out_of_memory.summary_of(
        [held, held | {"works_after": False}, {"failed": "the process ended with -9"}]
    )
    assert (summary["cases"], summary["survived"], summary["works_after"]) == (3, 2, 1)
