"""On a real GPU: the tracer counts what it should, and the prediction for the same GPU is near.

`benchmarks/gpu/validate.py` measures more, and keeps it.
"""

import pytest

from profiler.calibrating import calibrate
from profiler.calibrating.machine import gpu_at_hand
from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.pipelines import load_pipeline
from profiler.sizing.scenario import Scenario
from profiler.tracing import profile_pipeline

pytestmark = pytest.mark.gpu


def with_random_weights(model, dtype):
    pipe = load_pipeline(model, dtype=dtype, weights="random")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_a_prediction_is_within_five_percent_and_moves_the_same_bytes(mode):
    virtual = gpu_at_hand()
    call = {"prompt": "a cat", "num_inference_steps": 2}
    predicted = profile_pipeline(
        with_random_weights("sd15", "float16"), mode=mode, gpu=virtual, **call
    )
    pipe = with_random_weights("sd15", "float16")
    enable_mode(pipe, Mode(name=mode))
    measured = profile_pipeline(pipe, **call)
    assert (measured.source, measured.complete) == ("measured", True)
    assert measured.totals.peak_allocated_bytes == pytest.approx(
        predicted.totals.peak_allocated_bytes, rel=0.05
    )
    moves = [
        [
            (e.kind, e.component, e.bytes)
            for e in profile.events
            if e.kind in ("onload", "offload") and e.call == 0
        ]
        for profile in (measured, predicted)
    ]
    assert moves[0] == moves[1]


def test_the_gpu_at_hand_can_be_calibrated(tmp_path):
    done = calibrate([Scenario(model="sd15", dtype="float16")], output=tmp_path / "t.toml")
    assert (done.table.failed, done.skipped, done.left) == ({}, {}, ())
    assert done.measured == len(done.table.kernels) > 20
    assert all(cost.seconds > 0 for cost in done.table.kernels.values())
    assert all(nbytes > 0 for nbytes in done.table.context_bytes.values())
