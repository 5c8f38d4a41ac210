"""A saved profile comes back exactly, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profile_worlds import sdxl_model_offload

from profiler.errors import InputError
from profiler.record.components import Component, RepeatedLayer, TensorSize
from profiler.record.events import Event
from profiler.record.profile import (
    SCHEMA_VERSION,
    Assumption,
    Gpu,
    GpuState,
    PeakItem,
    Profile,
    Totals,
)

if TYPE_CHECKING:
    from pathlib import Path

sizes = st.integers(min_value=-(2**63), max_value=2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.sampled_from(("unet", "vae", "text_encoder_2", "Ünet"))
name_or_none = st.just("") | names
plain = st.recursive(
    st.none() | st.booleans() | sizes | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
st.register_type_strategy(int, sizes)
st.register_type_strategy(float, floats)
st.register_type_strategy(str, texts)


def tuples_of(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(strategy, max_size=3).map(tuple)


def records(kind: type, **given: st.SearchStrategy) -> st.SearchStrategy:
    """Return records of a kind, whose fields of bytes are never less than none, as a file's must not be."""
    most = st.integers(min_value=0, max_value=2**63 - 1)
    of_bytes = {
        one.name: most if one.type == "int" else st.none() | most
        for one in dataclasses.fields(kind)
        if one.name.endswith("_bytes")
    }
    return st.builds(kind, **of_bytes | given)


components = records(
    Component,
    tensors=tuples_of(st.builds(TensorSize)),
    blocks=tuples_of(records(RepeatedLayer)),
    quantization=texts,
    name=names,
    dtype=name_or_none,
)
profiles = st.builds(
    Profile,
    gpu=records(Gpu),
    components=tuples_of(components),
    pipeline_class=names,
    events=tuples_of(st.builds(Event, component=name_or_none, dtype=name_or_none)),
    totals=records(Totals),
    bill=tuples_of(records(PeakItem)),
    call=st.dictionaries(names, plain, max_size=3),
    call_defaults=tuples_of(texts),
    sequence=tuples_of(names),
    versions=st.dictionaries(texts, texts, max_size=3),
    assumptions=tuples_of(st.builds(Assumption)),
    error_band=floats,
    error_band_below=floats,
    complete=st.booleans(),
    error=texts,
    card_state=st.none() | records(GpuState, held_back_by=tuples_of(texts)),
)


def facts(profile: Profile) -> dict[str, object]:
    return {field.name: getattr(profile, field.name) for field in dataclasses.fields(profile)}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(profile=profiles)
def test_round_trip_is_exact(tmp_path: Path, profile: Profile) -> None:
    profile.save(tmp_path / "p.parquet")
    assert facts(Profile.load(tmp_path / "p.parquet")) == facts(profile)


def test_events_are_columns_that_pandas_opens(tmp_path: Path) -> None:
    import pandas as pd

    profile = sdxl_model_offload(steps=2)
    profile.save(tmp_path / "p.parquet")

    frame = pd.read_parquet(tmp_path / "p.parquet")

    assert list(frame.columns) == list(Event._fields)
    assert list(frame.itertuples(index=False, name=None)) == [
        tuple(event) for event in profile.events
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "p.parquet"
    sdxl_model_offload(steps=2).save(path)
    return path


def with_header(path: Path, header: bytes) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"vram_profiler": header}), path)


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Profile.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "there is no such file" in complaint(tmp_path / "p.parquet")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_says_so(saved: Path, kept: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * kept)])
    assert "cut short" in complaint(saved)


def test_a_flipped_bit_in_the_events_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[200] ^= 0x40
    saved.write_bytes(content)
    assert "damaged" in complaint(saved)


def test_a_foreign_parquet_file_says_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "p.parquet")
    assert "no profile" in complaint(tmp_path / "p.parquet")


def test_a_file_of_a_newer_version_says_what_to_do(saved: Path) -> None:
    with_header(saved, json.dumps({"schema_version": SCHEMA_VERSION + 1}).encode())
    assert "upgrade" in complaint(saved)


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b"{}", b'{"schema_version":1}', b'{"schema_version":1,"gpu":{}}']
)
def test_a_damaged_header_says_so(saved: Path, header: bytes) -> None:
    with_header(saved, header)
    assert "damaged" in complaint(saved)


def test_a_field_of_a_later_minor_version_is_left_out(saved: Path) -> None:
    header = json.loads(pq.read_schema(saved).metadata[b"vram_profiler"])
    header["colour"] = "blue"
    header["gpu"]["colour"] = "blue"
    with_header(saved, json.dumps(header).encode())
    assert facts(Profile.load(saved)) == facts(sdxl_model_offload(steps=2))


def test_a_call_that_is_not_plain_data_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    profile = dataclasses.replace(sdxl_model_offload(steps=2), call={"image": object()})
    with pytest.raises(InputError, match="plain data"):
        profile.save(tmp_path / "p.parquet")
    assert list(tmp_path.iterdir()) == []
