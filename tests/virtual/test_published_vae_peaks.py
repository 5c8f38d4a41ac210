"""Peaks of VAEs alone, measured by others on real GPUs, are predicted to two parts in a thousand."""

from __future__ import annotations

import pytest

from benchmarks.vae_peaks import predict, rows

SMALL = [row for row in rows() if int(row["height"]) * int(row["width"]) <= 1024 * 1024]


@pytest.mark.parametrize(
    "row",
    SMALL,
    ids=lambda row: " ".join((row["model"], row["operation"], row["dtype"], row["height"])),
)
def test_a_measured_peak_is_predicted(row):
    assert abs(predict(row).error) < 0.002
