"""The summary: stable keys, plain data, figures that add up."""

from __future__ import annotations

import dataclasses
import json

import pytest
from profile_worlds import GPU, Story, sdxl_model_offload

from profiler.record.profile import Profile
from profiler.record.verdict import verdict
from profiler.units import GIB, MIB

KEYS = [
    "schema_version",
    "source",
    "complete",
    "error",
    "model",
    "pipeline_class",
    "mode",
    "dtype",
    "dtypes",
    "quantization",
    "settings",
    "call",
    "call_defaults",
    "signatures",
    "sequence",
    "excluded",
    "gpu",
    "card_state",
    "fits",
    "spare_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_bytes",
    "host_pinned_bytes",
    "h2d_bytes",
    "d2h_bytes",
    "h2d_weight_bytes",
    "d2h_weight_bytes",
    "seconds",
    "host_pageable_bytes",
    "host_peak_bytes",
    "host_kept_bytes",
    "loading_host_peak_bytes",
    "transfer_seconds",
    "exposed_transfer_seconds",
    "host_bound_seconds",
    "shared_peak_bytes",
    "error_band",
    "error_band_below",
    "seconds_band",
    "seconds_band_below",
    "peak",
    "components",
    "phases",
    "calls",
    "steps",
    "bill",
    "assumptions",
    "failure",
    "trials",
    "findings",
    "versions",
]


@pytest.fixture
def profile() -> Profile:
    return sdxl_model_offload(steps=3)


def test_keys_are_stable(profile: Profile) -> None:
    assert list(profile.summary()) == KEYS


def test_summary_is_plain_json(profile: Profile) -> None:
    summary = profile.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_phases_have_their_own_peaks(profile: Profile) -> None:
    """1325 + 40 MiB; 4897 + 212 MiB; and `unet` is still there when decoding begins."""
    peaks = [
        (phase["name"], phase["peak_allocated_bytes"]) for phase in profile.summary()["phases"]
    ]
    assert peaks == [("encode", 1365 * MIB), ("denoise", 5109 * MIB), ("decode", 4897 * MIB)]


def test_the_peak_is_the_highest_of_all_phases_and_says_who(profile: Profile) -> None:
    peak = profile.summary()["peak"]
    assert (peak["peak_bytes"], peak["phase"], peak["step"]) == (5109 * MIB, "denoise", 0)
    assert (peak["component"], peak["doing"]) == ("unet", "forward")


def test_steps_carry_residents_and_transfers(profile: Profile) -> None:
    first, second, _ = profile.summary()["steps"]
    assert first["resident"] == ["text_encoder_2", "unet"]
    assert (first["h2d_bytes"], second["h2d_bytes"]) == (4897 * MIB, 0)


def test_an_empty_recording_has_a_summary() -> None:
    summary = Story(()).profile().summary()
    assert (summary["peak"], summary["phases"], summary["steps"]) == (None, [], [])


@pytest.mark.parametrize(
    ("spare_bytes", "answer"),
    [(0, "fits"), (-1, "tight"), (-160_715_244, "tight"), (-160_715_245, "does not fit")],
)
def test_the_verdict_counts_the_error_band(spare_bytes: int, answer: str) -> None:
    """3 % of 5109 MiB is 153.27 MiB, which is on top of what the driver would show."""
    profile = sdxl_model_offload(steps=1)
    needed = verdict(profile).needed_bytes
    assert needed == profile.totals.device_bytes + 160_715_244
    spec = dataclasses.replace(GPU, capacity_bytes=needed + spare_bytes)

    found = verdict(dataclasses.replace(profile, gpu=spec))

    assert (found.answer, found.spare_bytes) == (answer, spare_bytes)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", "does not fit"),
        ("interrupted", "unknown"),
    ],
)
def test_a_run_that_ended_early_is_judged_by_its_end(error: str, answer: str) -> None:
    spec = dataclasses.replace(GPU, capacity_bytes=80 * GIB)
    profile = dataclasses.replace(
        sdxl_model_offload(steps=1), complete=False, error=error, gpu=spec
    )
    assert verdict(profile).answer == answer
