"""Plans for modular pipelines, which have no model offload: applied, verified, undone, and printed as code."""

from __future__ import annotations

import pytest
from diffusers import ComponentsManager
from modular_worlds import CALL, modular_flux
from pipeline_states import state_of

from profiler.applying import apply, verify
from profiler.errors import InputError
from profiler.planning import plan_offload
from profiler.planning.does_not_fit import DoesNotFitError
from profiler.tracing import profile_pipeline
from profiler.units import MIB
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")
GPU = "rtx-4090"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flux")


@pytest.fixture(scope="module")
def profile(folder):
    return profile_pipeline(modular_flux(folder), gpu=GPU, **CALL)


@pytest.fixture(scope="module")
def plans(profile):
    """Plans from the smallest budget to one under which everything stays."""
    smallest = plan_offload(profile, "8GiB").smallest_budget_bytes
    budgets = (smallest + count * 4 * MIB for count in (0, 3, 9, 21))
    found = {repr(plan := plan_offload(profile, budget)): plan for budget in budgets}
    return list(found.values())


def test_plans_use_neither_sequence_nor_swaps(plans):
    assert len({tuple(sorted(plan.placements.items())) for plan in plans}) > 2
    for plan in plans:
        assert (plan.sequence, plan.swaps) == ((), {})
        assert set(plan.placements.values()) <= {
            "resident",
            "group-leaf",
            "group-block",
            "sequential",
        }
        assert set(plan.stock.excluded) == set(plan.placements)  # it is compared with all resident


def test_plans_hold_and_are_undone(folder, plans):
    for plan in plans:
        with VirtualGPU(GPU):
            pipe = modular_flux(folder)
            before = state_of(pipe)
            with apply(plan, pipe):
                verification = verify(pipe, plan, **CALL)
                assert verification.held, verification
            assert state_of(pipe)["pipe"] == before["pipe"]
            assert {key: state_of(pipe)[key]["hooks"] for key in before if "." in key} == {
                key: one["hooks"] for key, one in before.items() if "." in key
            }


def test_printed_code_does_the_same(folder, plans):
    for plan in plans:
        with VirtualGPU(GPU):
            pipe = modular_flux(folder)
            exec(compile(plan.to_code(), "plan", "exec"), {"pipe": pipe})
            verification = verify(pipe, plan, **CALL)
            assert verification.held, (plan.to_code(), verification)


def test_strategy_of_the_plan_keeps_its_budget(folder, profile):
    whole = max(part.allocated_bytes for part in profile.components)
    plan = plan_offload(profile, profile.gpu.context_bytes + profile.gpu.slack_bytes + 2 * whole)
    with VirtualGPU(GPU) as gpu:
        pipe = modular_flux(folder)
        manager = ComponentsManager()
        for name, part in pipe.components.items():
            manager.add(name, part)
        manager.enable_auto_cpu_offload("cuda")
        manager.set_offload_strategy(plan.as_offload_strategy())
        for _ in range(2):
            pipe(**CALL)
        assert gpu.allocator.peak_bytes <= plan.margin.allocatable_bytes


def test_managed_pipe_is_refused(folder, plans):
    with VirtualGPU(GPU):
        pipe = modular_flux(folder)
        manager = ComponentsManager()
        for name, part in pipe.components.items():
            manager.add(name, part)
        manager.enable_auto_cpu_offload("cuda")
        with pytest.raises(InputError, match=r"call its disable_auto_cpu_offload\(\) first"):
            apply(plans[0], pipe)
        manager.disable_auto_cpu_offload()
        apply(plans[0], pipe)
        manager.enable_auto_cpu_offload("cuda")
        assert "a ComponentsManager offloads components" in verify(pipe, plans[0], **CALL).drift[0]


def test_too_small_a_budget_is_refused(profile):
    with pytest.raises(DoesNotFitError, match="FluxModularPipeline does not fit"):
        plan_offload(profile, "512MiB")
