"""The tables of a recording say what the events say."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_worlds import Story, component, sdxl_model_offload

from profiler.record import moments
from profiler.record import readings as reading
from profiler.record.profile import Profile
from profiler.units import MIB


def two_components() -> Profile:
    """`a` (10 MiB) is used, `b` (20 MiB) evicts it and runs two steps; copies take a second per 10 MB."""
    story = Story((component("a", 10 * MIB), component("b", 20 * MIB)))
    story.begin()
    story.copy(100, "cpu", "cuda:0")
    story.enter("a")
    story.onload("a")
    story.compute("a", 3 * MIB, seconds=1.0)
    story.phase, story.step = "denoise", 0
    story.enter("b")
    story.offload("a")
    story.onload("b")
    story.compute("b", 5 * MIB, seconds=2.0)
    story.step = 1
    story.enter("b")
    story.compute("b", 6 * MIB, seconds=2.0)
    story.phase, story.step = "decode", -1
    story.copy(300, "cuda:0", "cpu")
    story.end()
    return story.profile()


def rows(frame: pd.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    return list(frame[list(columns)].itertuples(index=False, name=None))


def test_steps_tell_peak_transfers_and_residents() -> None:
    """Step 0 evicts `a` (10 MiB down), loads `b` (20 MiB up) and peaks at 20 + 5 MiB; step 1 moves nothing."""
    columns = ("step", "peak_allocated_bytes", "h2d_bytes", "d2h_bytes", "resident")
    assert rows(two_components().steps, *columns) == [
        (0, 25 * MIB, 20 * MIB, 10 * MIB, "a, b"),
        (1, 26 * MIB, 0, 0, "b"),
    ]


def test_residency_tells_from_when_to_when_and_where() -> None:
    columns = ("component", "where", "device_bytes", "start_ordinal", "end_ordinal")
    assert rows(two_components().residency, *columns) == [
        ("a", "cpu", 0, -1, 3),
        ("a", "cuda:0", 10 * MIB, 3, 6),
        ("a", "cpu", 0, 6, 13),
        ("b", "cpu", 0, -1, 8),
        ("b", "cuda:0", 20 * MIB, 8, 13),
    ]


def test_transfers_are_the_moves_of_weights_and_the_other_copies() -> None:
    columns = ("ordinal", "component", "weights", "direction", "bytes")
    assert rows(two_components().transfers, *columns) == [
        (1, "", False, "h2d", 100),
        (3, "a", True, "h2d", 10 * MIB),
        (6, "a", True, "d2h", 10 * MIB),
        (8, "b", True, "h2d", 20 * MIB),
        (12, "", False, "d2h", 300),
    ]


def test_components_tell_how_often_they_ran_and_their_own_peak() -> None:
    columns = ("component", "bytes", "calls", "h2d_bytes", "d2h_bytes", "compute_peak_bytes")
    assert rows(two_components().frames.components, *columns) == [
        ("a", 10 * MIB, 1, 10 * MIB, 10 * MIB, 13 * MIB),
        ("b", 20 * MIB, 2, 20 * MIB, 0, 26 * MIB),
    ]


def test_memory_has_every_event_and_the_peak_before_it() -> None:
    profile = two_components()
    assert rows(profile.memory, "ordinal", "kind", "lead_peak_bytes", "after_bytes")[:6] == [
        (0, "begin", 0, 0),
        (1, "copy", 0, 0),
        (2, "enter", 0, 0),
        (3, "onload", 0, 10 * MIB),
        (4, "exit", 13 * MIB, 10 * MIB),
        (5, "enter", 10 * MIB, 10 * MIB),
    ]
    assert len(profile.memory) == len(profile.events)


def test_calls_share_out_the_whole_run() -> None:
    profile = sdxl_model_offload(steps=3, calls=2)
    calls = profile.calls
    assert list(calls.call) == [0, 1]
    assert calls.h2d_bytes.sum() == profile.totals.h2d_bytes
    assert calls.seconds.sum() == pytest.approx(profile.totals.seconds)


def test_a_component_on_the_gpu_from_the_start_is_resident_from_the_start() -> None:
    story = Story((component("a", 10 * MIB, device="cuda:0"), component("b", 20 * MIB)))
    story.begin()
    story.end()
    assert rows(story.profile().residency, "component", "where", "device_bytes") == [
        ("a", "cuda:0", 10 * MIB),
        ("b", "cpu", 0),
    ]


def test_dropping_a_copy_moves_nothing() -> None:
    event = sdxl_model_offload(steps=1).events[5]
    assert event.kind == "offload"
    assert reading.direction(event) == "d2h"
    assert reading.direction(event._replace(to_device="meta")) == ""


def test_eviction_during_an_entry_is_no_peak_of_the_one_that_enters() -> None:
    """When `vae` enters, `unet` is still there; the peak of `vae` is its own 160 + 4200 MiB."""
    assert moments.compute_peaks(sdxl_model_offload(steps=1))["vae"].peak_bytes == 4360 * MIB


moves = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12)


@settings(deadline=None)
@given(moves=moves)
def test_tables_agree_with_a_dumb_reading_of_the_events(moves: list[tuple[str, int]]) -> None:
    story = Story(tuple(component(name, (i + 1) * MIB) for i, name in enumerate("abc")))
    for name, step in moves:
        story.phase, story.step = "denoise", step
        if story.resident[name]:
            story.offload(name)
        else:
            story.onload(name)
    profile = story.profile()
    dumb_peak = max((max(e.lead_peak_bytes, e.peak_bytes) for e in profile.events), default=0)

    transfers, steps = profile.transfers, profile.steps

    assert transfers.bytes.sum() == profile.totals.h2d_bytes + profile.totals.d2h_bytes
    assert steps.h2d_bytes.sum() == profile.totals.h2d_bytes
    assert steps.peak_allocated_bytes.max() == dumb_peak if moves else steps.empty
    ends = profile.residency.groupby("component").device_bytes.last().to_dict()
    assert ends == story.resident


def test_reading_a_profile_needs_neither_torch_nor_matplotlib(tmp_path) -> None:
    sdxl_model_offload(steps=2).save(tmp_path / "p.parquet")
    code = (
        "import sys; from profiler.record.profile import Profile; "
        f"profile = Profile.load({str(tmp_path / 'p.parquet')!r}); profile.summary(); repr(profile); "
        "profile._repr_html_(); print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
