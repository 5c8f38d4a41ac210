"""What may change the picture is done only where nothing fits without, and then is part of the plan."""

from __future__ import annotations

import pytest

from profiler.errors import FindingError, InputError
from profiler.planning import Plan
from profiler.sizing.modifying import combinations_of
from profiler.sizing.scenario import Scenario
from profiler.sizing.size import plan_model, profile_without_limit, verify_plan
from profiler.units import GIB

# Its decode takes 9 GiB of activations at this size.
LARGE = Scenario(model="sd15", gpu="rtx-4060", height=1536, width=1536, steps=1)


def test_the_mildest_come_first():
    assert list(combinations_of(("fp8", "vae-tiling"))) == [
        (),
        ("vae-tiling",),
        ("fp8",),
        ("vae-tiling", "fp8"),
    ]
    assert list(combinations_of(("drop:unet", "fp8")))[1:3] == [("fp8",), ("drop:unet",)]
    for name in ("blur", "drop:", "drop:a b", "drop"):
        with pytest.raises(InputError, match="vae-tiling, vae-slicing, fp8, drop:COMPONENT"):
            list(combinations_of((name,)))


def test_tiling_is_used_where_nothing_fits_without(tmp_path):
    with pytest.raises(FindingError, match="enable_tiling"):
        plan_model(LARGE, 5 * GIB)
    plan = plan_model(LARGE, 5 * GIB, allow=("vae-tiling", "fp8"))
    assert plan.modifiers == ("vae-tiling",)
    assert "vae works in tiles" in plan.to_text()
    plan.save(tmp_path / "plan.json")
    assert verify_plan(Plan.load(tmp_path / "plan.json")).held


def test_component_is_left_out_where_nothing_fits_with_it(tmp_path):
    """Without levers T5 decides the smallest budget of Stable Diffusion 3."""
    scenario = Scenario(model="sd3-medium", gpu="rtx-4060", height=256, width=256, steps=1)
    options = {"levers": (), "allow": ("drop:text_encoder_3",)}

    plan = plan_model(scenario, 6 * GIB, **options)

    assert "text_encoder_3" not in plan.placements
    assert "without text_encoder_3" in plan.to_text()
    plan.save(tmp_path / "plan.json")
    assert verify_plan(Plan.load(tmp_path / "plan.json")).held
    assert "text_encoder_3" in plan_model(scenario, 16 * GIB, **options).placements


def test_a_saved_profile_cannot_be_modified():
    profile = profile_without_limit(LARGE)
    with pytest.raises(InputError, match="plan from the model instead"):
        plan_model(profile, 5 * GIB, allow=("vae-tiling",))
