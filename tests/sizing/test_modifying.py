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
    with pytest.raises(InputError, match="vae-tiling, vae-slicing, fp8"):
        list(combinations_of(("blur",)))


def test_tiling_is_used_where_nothing_fits_without(tmp_path):
    with pytest.raises(FindingError, match="enable_tiling"):
        plan_model(LARGE, 5 * GIB)
    plan = plan_model(LARGE, 5 * GIB, allow=("vae-tiling", "fp8"))
    assert plan.modifiers == ("vae-tiling",)
    assert "vae works in tiles" in plan.to_text()
    plan.save(tmp_path / "plan.json")
    assert verify_plan(Plan.load(tmp_path / "plan.json")).held


def test_a_saved_profile_cannot_be_modified():
    profile = profile_without_limit(LARGE)
    with pytest.raises(InputError, match="plan from the model instead"):
        plan_model(profile, 5 * GIB, allow=("vae-tiling",))
