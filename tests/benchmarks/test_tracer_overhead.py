"""What the tracer costs: memory within its limits; seconds are for `benchmarks/tracer_overhead.py` to say."""

import json
import runpy
from pathlib import Path

import torch
import tracer_overhead
from tiny_folder import write_tiny_pipeline
from tracing_cost import slowdown

from profiler.libraries.modes import Mode
from profiler.libraries.placing import enable_mode
from profiler.tracing import trace

ROOT = Path(__file__).parents[2]
ON_A_GPU = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "tracer_overhead.py"))


def test_a_thousand_events_take_less_than_a_megabyte_and_nothing_on_the_device(one_thread):
    found = tracer_overhead.measured(pairs=3, steps=2)
    assert 100_000 < found["host_bytes_per_1000_events"] < tracer_overhead.LIMIT_BYTES
    assert {figure for name, figure in found.items() if name.startswith("device_")} == {0}
    assert found["ratio"] > 0.5


def test_the_tracer_sees_a_real_pipeline_on_the_cpu_and_does_not_change_its_picture(one_thread):
    with torch.no_grad(), tracer_overhead.answered_by_a_model():
        pipe = tracer_overhead.tiny_pipeline()
        enable_mode(pipe, Mode(name="model"), device="cpu")
        call = tracer_overhead.calling(pipe, "cpu", 2)
        pictures = []
        for _ in range(2):
            torch.manual_seed(1)
            with trace(pipe) as tracing:
                pictures.append(call().images[0])
        torch.manual_seed(1)
        assert pictures[0] == pictures[1] == call().images[0]
    kinds = [event.kind for event in tracing.profile.events]
    assert kinds.count("enter") == kinds.count("exit") == 3  # the UNet twice, the VAE


def test_the_ratio_is_of_each_call_to_those_around_it_by_the_clock_given(one_thread):
    """Each reading of this clock is a second later, but for the plain calls, in which nothing reads it."""
    ticks = iter(range(10**6))
    with tracer_overhead.answered_by_a_model():
        pipe = tracer_overhead.tiny_pipeline()
        found = slowdown(pipe, lambda: None, pairs=4, clock=lambda: next(ticks))
    assert (found["ratio"], found["ratio_quartiles"]) == (1.0, [1.0, 1.0])
    assert (found["noise"], found["noise_quartiles"]) == (1.0, [1.0, 1.0])
    assert (found["plain_seconds"], found["traced_seconds"]) == (1, 1)
    assert found["attaching_seconds"] == 2  # around the two readings of the call


def test_a_dry_run_on_a_virtual_gpu_writes_each_mode_and_goes_on(tmp_path, capsys):
    tiny, path = write_tiny_pipeline(tmp_path / "tiny"), tmp_path / "t.json"
    words = ["--dry", "--model", str(tiny), "--steps", "2", "--pairs", "3", "-o", str(path)]
    ON_A_GPU["main"]([*words, "--only", "model"])
    record = json.loads(path.read_text())
    (entry,) = record["cases"].values()
    assert record["dry"]
    assert entry["device_peak_bytes"] == entry["device_stays_bytes"] == 0
    assert entry["host_bytes_per_1000_events"] > 0
    assert "traced / plain" in capsys.readouterr().out
    ON_A_GPU["main"]([*words, "--only", "model"])
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text()) == record


def test_what_is_over_its_limit_is_told():
    fine = {"ratio": 1.005, "host_bytes_per_1000_events": 5e5, "device_peak_bytes": 0}
    assert ON_A_GPU["over"](fine) == []
    assert ON_A_GPU["over"](fine | {"ratio": 1.02}) == ["ratio: 1.02 is over 1.01"]
    assert ON_A_GPU["over"](fine | {"device_peak_bytes": 512}) == [
        "device_peak_bytes: 512 is over 0"
    ]
