"""The largest value that fits: the next one does not, as runs of their own say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_folder import write_tiny_pipeline
from typer.testing import CliRunner

from profiler.cli.app import app
from profiler.errors import FindingError, InputError
from profiler.libraries.modes import Mode
from profiler.record.verdict import verdict
from profiler.sizing.bracket import Bracket
from profiler.sizing.fit import largest_fitting
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import accepted_sizes, profile_model, verify_plan
from profiler.units import MIB


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")))


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(0, 2000), st.integers(0, 79)
)
def test_the_bracket_finds_what_trying_all_finds(rises, room, start):
    """Whatever grows, in a line or not; at most about two trials for each halving."""
    needs = [sum(rises[: place + 1]) for place in range(len(rises))]
    bracket = Bracket(range(1, len(needs) + 1), room, start)
    tried = []
    while (place := bracket.next()) is not None:
        tried.append(place)
        bracket.note(place, needs[place], fits=needs[place] <= room)
    assert bracket.fits == max((n for n, one in enumerate(needs) if one <= room), default=-1)
    assert len(tried) == len(set(tried)) <= 3 + 3 * len(needs).bit_length()


def test_what_grows_in_a_line_takes_four_trials():
    bracket = Bracket(range(1, 65), room=100, start=0)
    tried = []
    while (place := bracket.next()) is not None:
        tried.append(place + 1)
        bracket.note(place, 20 + 3 * (place + 1), fits=20 + 3 * (place + 1) <= 100)
    assert tried == [1, 2, 26, 27]


def test_the_next_batch_does_not_fit_in_that_mode(tiny):
    scenario = Scenario(
        model=tiny, gpu="rtx-4060", mode=Mode(name="resident"), steps=1, height=64, width=64
    )
    budget = scenario.gpu_spec().context_bytes + 48 * MIB
    found = largest_fitting(scenario, "batch", planned=False, budget_bytes=budget)
    assert found.value == found.tried[found.tried.index(found.value)]
    assert found.next_value == found.value + 1

    def fits(batch):
        profile = profile_model(replace(scenario, batch=batch, capacity=budget))
        cached = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
        return profile.complete and verdict(profile).needed_bytes - cached <= budget

    assert (fits(found.value), fits(found.next_value)) == (True, False)
    assert found.needed_bytes <= budget
    assert found.next_missing_bytes > 0


def test_the_plan_of_the_largest_side_holds(tiny):
    scenario = Scenario(model=tiny, gpu="rtx-4060", steps=2)
    budget = scenario.gpu_spec().context_bytes + 330 * MIB
    found = largest_fitting(scenario, "side", budget_bytes=budget, limit=512)
    assert (found.height, found.width) == (found.value, found.value)
    assert found.plan.margin.device_bytes == found.needed_bytes <= budget
    assert verify_plan(found.plan).held


def test_the_other_side_follows_in_proportion_or_stays_as_named(tiny):
    scenario = Scenario(model=tiny, gpu="rtx-4060", mode=Mode(name="model"), steps=1, height=64)
    wide = largest_fitting(replace(scenario, width=128), "height", planned=False, limit=96)
    assert (wide.height, wide.width, wide.next_value) == (96, 128, None)
    square = largest_fitting(replace(scenario, height=None), "height", planned=False, limit=96)
    assert square.height == square.width == 96


@pytest.mark.parametrize(
    ("model", "quantity", "told"),
    [
        ("sd15", "side", (512, 8, (512, 512))),
        ("flux1-dev", "height", (1024, 16, (1024, 1024))),
        ("wan2.1-t2v-1.3b", "frames", (81, 4, (0, 0))),
        ("ltx-video", "frames", (161, 8, (0, 0))),
        pytest.param("cogvideox-2b", "frames", (49, 4, (0, 0)), marks=pytest.mark.nightly),
    ],
)
def test_the_step_is_what_the_pipeline_takes(model, quantity, told):
    assert accepted_sizes(Scenario(model=model), quantity) == told


def test_what_fits_nowhere_is_told_with_the_smallest(tiny):
    scenario = Scenario(model=tiny, gpu="rtx-4060", steps=1)
    budget = scenario.gpu_spec().context_bytes + 2 * MIB
    with pytest.raises(FindingError, match=r"Not even batch 1 fits\. .* does not fit"):
        largest_fitting(scenario, "batch", budget_bytes=budget)


@pytest.mark.parametrize(
    ("quantity", "options", "says"),
    [
        ("frames", {}, "takes no frames"),
        ("beauty", {}, "choose batch, frames"),
        ("batch", {"limit": 0}, "is no limit"),
        ("side", {"limit": 8}, "less than the smallest side"),
    ],
)
def test_what_has_no_largest_is_refused_in_a_sentence(tiny, quantity, options, says):
    with pytest.raises(InputError, match=says):
        largest_fitting(Scenario(model=tiny), quantity, **options)


def test_the_command_says_what_fits_and_what_does_not(tiny, tmp_path):
    command = ["fit", tiny, "--max", "batch", "--steps", "1", "--limit", "4"]
    plan = tmp_path / "plan.json"
    said = CliRunner().invoke(app, [*command, "-o", str(plan)], prog_name="vram")
    assert said.exit_code == 0, said.output
    assert "batch 4" in said.stdout.splitlines()[0]
    assert "  next       none: all that was to be tried fits" in said.stdout
    assert plan.exists()
    code = CliRunner().invoke(app, [*command, "--code"], prog_name="vram")
    assert "num_images_per_prompt=4" in code.stdout
    words = [*command, "--mode", "model", "--json"]
    found = json.loads(CliRunner().invoke(app, words, prog_name="vram").stdout)
    assert (found["value"], found["tried"], found["plan"]) == (4, [1, 2, 4], None)
    refused = CliRunner().invoke(app, [*command, "--mode", "model", "--code"], prog_name="vram")
    assert refused.exit_code == 2
