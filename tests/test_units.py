"""Sizes, fractions and durations as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import InputError
from profiler.units import (
    format_band,
    format_bytes,
    format_fraction,
    format_seconds,
    parse_bytes,
    parse_fraction,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8_589_934_592),
        ("8 gib", 8_589_934_592),
        ("8GB", 8_000_000_000),
        ("8192MiB", 8_589_934_592),
        ("1.5 GiB", 1_610_612_736),
        ("512KiB", 524_288),
        ("1TiB", 1_099_511_627_776),
        ("12B", 12),
        (12, 12),
    ],
)
def test_size_is_parsed_to_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["8 apples", "8", "GiB", "", "-8GiB", "0GiB", "8GiBB", "1e3GiB", 0, -1]
)
def test_nonsense_is_refused_as_a_size(text):
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


@given(
    st.integers(min_value=1, max_value=10**6),
    st.sampled_from(["KiB", "MiB", "GiB", "KB", "MB", "GB"]),
)
def test_parsed_size_is_number_times_unit(number, unit):
    base = 1024 if "i" in unit else 1000
    exponent = "KMG".index(unit[0]) + 1
    assert parse_bytes(f"{number}{unit}") == number * base**exponent


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (511, "511 B"),
        (1536, "1.5 KiB"),
        (32 * 2**20, "32.0 MiB"),
        (5_465_345_884, "5.09 GiB"),
        (-5_465_345_884, "-5.09 GiB"),
    ],
)
def test_bytes_are_written_in_the_unit_a_reader_expects(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "fraction"),
    [("2%", 0.02), ("0.5 %", 0.005), ("0.02", 0.02), (0.25, 0.25), ("100%", 1.0)],
)
def test_fraction_is_parsed(text, fraction):
    assert parse_fraction(text) == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["two", "2", "101%", "-1%", "nan"])
def test_nonsense_is_refused_as_a_fraction(text):
    with pytest.raises(InputError, match="is not a fraction"):
        parse_fraction(text)


def test_fractions_and_seconds_are_written_for_readers():
    written = [
        format_fraction(0.02),
        format_fraction(0.0035),
        format_band(0.01, 0.01),
        format_band(0.01, 0.025),
        format_seconds(0.84),
        format_seconds(12.34),
        format_seconds(245),
    ]
    assert written == ["2 %", "0.4 %", "± 1 %", "+ 1 %, - 2.5 %", "840 ms", "12.3 s", "4 min 05 s"]
