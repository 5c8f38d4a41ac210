"""The picture as data: order, folds, and no byte above or below what the recording says."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_worlds import GPU, Story, component, sdxl_model_offload

from profiler.record.moments import compute_peaks
from profiler.record.profile import Failure, Profile
from profiler.units import GIB, MIB
from reports import curves
from reports.palette import SERIES, component_colours
from reports.steps_svg import step_runs
from reports.sum_bar import gpu_share, sum_pieces
from reports.timeline import COLUMNS, timeline


def test_equal_steps_are_drawn_once_and_folded() -> None:
    """Step 1 differs (it loads the denoiser); of the 29 equal ones the first is drawn."""
    segments = timeline(sdxl_model_offload(steps=30)).segments
    assert [(s.phase, s.step, s.folded_steps) for s in segments] == [
        ("encode", -1, 0),
        ("denoise", 0, 0),
        ("denoise", 1, 0),
        ("denoise", 2, 28),
        ("decode", -1, 0),
    ]
    assert segments[3].seconds == pytest.approx(28 * 0.21)


def test_three_equal_steps_are_not_folded() -> None:
    assert not any(
        segment.folded_steps for segment in timeline(sdxl_model_offload(steps=4)).segments
    )


def test_equal_steps_share_a_row() -> None:
    rows = [
        (run.label, run.peak_bytes, run.h2d_bytes)
        for run in step_runs(sdxl_model_offload(steps=30))
    ]
    assert rows == [("step 1", 5109 * MIB, 4897 * MIB), ("steps 2 to 30", 5109 * MIB, 0)]


def test_lanes_are_in_the_order_of_first_use() -> None:
    profile = sdxl_model_offload(steps=1)
    names = [profile.components[index].name for index in timeline(profile).order]
    assert names == ["text_encoder", "text_encoder_2", "unet", "vae"]


def test_columns_follow_an_upload_and_the_work_after_it() -> None:
    story = Story((component("a", 10 * MIB),))
    story.begin()
    story.enter("a")
    story.onload("a")
    story.compute("a", 3 * MIB)
    columns = timeline(story.profile()).columns
    seen = [(c.what, c.held_before, c.held_after, c.peak_bytes, c.computing) for c in columns]
    assert seen[-4:] == [
        ("a forward", (0,), (0,), 0, "a"),
        ("a to the GPU", (0,), (10 * MIB,), 10 * MIB, ""),
        ("a forward", (10 * MIB,), (10 * MIB,), 13 * MIB, "a"),
        ("a exit", (10 * MIB,), (10 * MIB,), 10 * MIB, ""),
    ]


worlds = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 9)), max_size=40
)


@settings(deadline=None, max_examples=60)
@given(world=worlds)
def test_columns_cover_the_axis_in_order_and_lose_no_byte(
    world: list[tuple[str, int, int]],
) -> None:
    profile = told(world)
    picture = timeline(profile)
    edges = [edge for column in picture.columns for edge in (column.start, column.end)]

    assert edges == sorted(edges)
    assert edges[0] == 0.0
    assert edges[-1] == pytest.approx(1.0)
    assert max(c.peak_bytes for c in picture.columns) == profile.totals.peak_allocated_bytes
    assert sum(c.h2d_bytes for c in picture.columns) == profile.totals.h2d_bytes
    assert sum(c.d2h_bytes for c in picture.columns) == profile.totals.d2h_bytes


@settings(deadline=None, max_examples=60)
@given(world=worlds.filter(len))
def test_the_dot_of_the_peak_lies_on_the_curve(world: list[tuple[str, int, int]]) -> None:
    profile = told(world)
    columns = timeline(profile).columns
    position, peak_bytes = curves.peak_point(columns)
    edges = curves.rest(columns)
    tops = [
        before.high + (after.high - before.high) * (position - before.position) / width
        for before, after in zip(edges[::2], edges[1::2], strict=True)
        if before.position <= position <= after.position
        and (width := after.position - before.position)
    ]
    assert peak_bytes == profile.totals.peak_allocated_bytes
    assert any(top == pytest.approx(peak_bytes) for top in tops)


@pytest.mark.parametrize("activations", [0, 3 * MIB])
def test_a_component_ran_before_a_move_failed_if_memory_rose_between_its_layers(
    activations: int,
) -> None:
    story = Story((component("net", 20 * MIB),))
    story.begin()
    story.enter("net")
    story.onload("net")
    story.clock_seconds += 0.1
    story.lead_peak_bytes = story.allocated_bytes + activations
    story.add("onload", "net", from_device="cpu", to_device="cuda:0")
    story.add("exit", "net", entry="forward")
    failure = Failure(component="net", doing="onload", phase="encode", step=-1, ordinal=3)
    profile = story.profile(complete=False, failure=failure)
    computing = {column.computing for column in timeline(profile).columns}
    assert set(compute_peaks(profile)) == ({"net"} if activations else set())
    assert computing == {"", *compute_peaks(profile)}


def told(world: list[tuple[str, int, int]]) -> Profile:
    story = Story(tuple(component(name, (i + 1) * MIB) for i, name in enumerate("abc")))
    story.begin()
    for name, step, activations in world:
        story.phase, story.step = ("denoise", step) if step else ("encode", -1)
        story.enter(name)
        story.offload(name) if story.resident[name] else story.onload(name)
        story.compute(name, activations * MIB, seconds=activations / 10)
    return story.profile()


def test_a_long_run_is_merged_to_what_a_page_can_show() -> None:
    story = Story((component("a", MIB),))
    story.begin()
    for _ in range(5000):
        story.onload("a")
        story.offload("a")
    profile = story.profile()
    columns = timeline(profile).columns
    assert len(columns) <= COLUMNS + 1
    assert sum(column.h2d_bytes for column in columns) == profile.totals.h2d_bytes


def test_a_cast_that_doubles_a_component_still_fits_its_lane() -> None:
    story = Story((component("vae", 10 * MIB, device="cuda:0"),))
    story.begin()
    story.resident["vae"] = 20 * MIB
    story.add("cast", "vae", after=20 * MIB, bytes=20 * MIB)
    story.end()
    columns = timeline(story.profile()).columns
    assert curves.fullest(columns, 0, 10 * MIB) == 20 * MIB


def test_the_sum_against_the_gpu_adds_up_to_the_gpu() -> None:
    profile = sdxl_model_offload(steps=1)
    pieces = sum_pieces(profile)
    assert [piece.label for piece in pieces] == [
        "CUDA context",
        "unet weights",
        "unet activations",
        "workspace",
        "reserved, not allocated",
        "error band",
        "spare",
    ]
    assert (
        sum(piece.bytes for piece in pieces) == GPU.capacity_bytes + 77
    )  # the -77 unattributed does not show
    assert gpu_share(profile) == 1.0


def test_what_does_not_fit_ends_beyond_the_gpu() -> None:
    spec = dataclasses.replace(GPU, capacity_bytes=5 * GIB)
    profile = sdxl_model_offload(steps=1, spec=spec)
    assert gpu_share(profile) == pytest.approx(5 * GIB / (5473 * MIB + 160_715_244))
    assert "spare" not in [piece.kind for piece in sum_pieces(profile)]


def test_the_denoiser_has_the_first_colour_in_every_report() -> None:
    colours = component_colours(sdxl_model_offload(steps=1))
    assert colours == dict(
        zip(("unet", "vae", "text_encoder", "text_encoder_2"), SERIES, strict=False)
    )


def test_a_recording_without_events_has_no_picture() -> None:
    assert timeline(Story(()).profile()) == ((), (), ())
