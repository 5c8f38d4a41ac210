"""A plan as the offload strategy of a real `ComponentsManager`, on the virtual GPU, beside diffusers' own strategy."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from diffusers import ComponentsManager
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny_pipelines import Act, Script, build, scripts

from profiler.applying.offload_strategy import OffloadStrategy, component_name
from profiler.errors import FindingError, InputError
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.planning import Plan, plan_offload
from profiler.planning.replaying.uses import Use
from profiler.tracing import profile_pipeline
from profiler.units import GIB, MIB
from profiler.virtual import VirtualGPU


def managed(pipe, **options):
    """Return a manager of the pipe's components, which offloads them by diffusers' own hooks."""
    manager = ComponentsManager()
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            manager.add(name, part)
    manager.enable_auto_cpu_offload("cuda", **options)
    return manager


def on_gpu(pipe):
    return {
        name
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module) and part.device.type == "cuda"
    }


def profiled(script):
    with VirtualGPU("rtx-4090"), quiet():
        return profile_pipeline(build(script), mode="model")


def test_the_names_that_a_manager_gives_are_found_again():
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    manager = ComponentsManager()
    parts = {name: torch.nn.Linear(2, 2) for name in ("unet", "text_encoder_2", "a_b_c")}
    assert [component_name(manager.add(name, part)) for name, part in parts.items()] == list(parts)


def use(name, weight, other=0, within=()):
    """Return a use whose sizes are given in blocks of 512 bytes."""
    return Use(
        component=name, weight_bytes=512 * weight, other_bytes=512 * other, within=tuple(within)
    )


def strategy_for(*uses, limit):
    return OffloadStrategy(uses, 512 * limit)


class _Hook:
    """What a strategy sees of diffusers' `UserCustomOffloadHook`: the id and the model, of some blocks."""

    def __init__(self, name, blocks=1):
        self.model_id, self.model = f"{name}_1", torch.nn.Module()
        self.model.register_buffer("weight", torch.empty(512 * blocks, dtype=torch.uint8))


def goes(strategy, entering, *there):
    """Return who goes when `entering` comes."""
    hooks = [one if isinstance(one, _Hook) else _Hook(one) for one in there]
    coming = _Hook(entering)
    going = strategy(hooks, coming.model_id, coming.model, torch.device("cuda:0"))
    assert all(hook in hooks for hook in going)
    return sorted(component_name(hook.model_id) for hook in going)


def test_who_is_used_farthest_away_goes_first():
    """Three places: when `d` comes, the next uses are those of a, b, then c."""
    strategy = strategy_for(*(use(name, 1) for name in "abcdabc"), limit=3)
    assert goes(strategy, "a") == []
    assert goes(strategy, "b", "a") == []
    assert goes(strategy, "c", "a", "b") == []
    assert goes(strategy, "d", "a", "b", "c") == ["c"]
    # a and b are there and run unasked; c comes again, a new round begins, and d is farthest
    assert goes(strategy, "c", "a", "b", "d") == ["d"]


def test_what_stays_must_fit_with_its_own_next_use():
    """`vae` needs 50 besides weights: beside `unet`, which needs 5, it would not fit when it runs unasked."""
    strategy = strategy_for(use("unet", 40, 5), use("vae", 5, 50), use("te", 10, 1), limit=80)
    assert goes(strategy, "unet", "vae", "te") == ["vae"]
    assert goes(strategy, "vae", "unet", "te") == ["unet"]


def test_a_component_that_is_running_stays():
    strategy = strategy_for(use("a", 1), use("b", 1, within="a"), use("c", 1), limit=2)
    assert goes(strategy, "a", "c") == []
    assert goes(strategy, "b", "a", "c") == ["c"]


def test_a_model_that_the_plan_does_not_know_goes_first_and_takes_what_it_takes():
    strategy = strategy_for(use("a", 1, 5), use("b", 1, 5), limit=8)
    assert goes(strategy, "a", "b", _Hook("stranger", 1)) == []
    assert goes(strategy, "a", "b", _Hook("stranger", 2)) == ["stranger"]
    assert goes(strategy, "stranger", "a", "b") == []


def test_a_component_that_grew_is_counted_as_it_is():
    """A LoRA was loaded: `b` takes more than the plan says."""
    strategy = strategy_for(use("a", 1), use("b", 1), limit=3)
    assert goes(strategy, "a", _Hook("b", 2)) == []
    assert goes(strategy, "a", _Hook("b", 3)) == ["b"]


def peak_beyond(script, plan):
    """Return by how much three calls go beyond what the plan's budget allows; None where it holds no component."""
    try:
        strategy = plan.as_offload_strategy()
    except FindingError:
        return None
    with VirtualGPU("rtx-4090"), quiet():
        pipe = build(script)
        manager = managed(pipe)
        manager.set_offload_strategy(strategy)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            pipe()
        return max(torch.cuda.max_memory_allocated() - plan.margin.allocatable_bytes, 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_pipeline_exceeds_the_plan_s_budget_in_any_call(data):
    script = data.draw(scripts())
    assume(any(act.kind in ("run", "encode") for act in script.acts))
    profile = profiled(script)
    smallest = plan_offload(profile, 64 * GIB).smallest_budget_bytes
    plan = plan_offload(profile, smallest + data.draw(st.integers(0, 30_000)))
    beyond = peak_beyond(script, plan)
    assume(beyond is not None)
    assert beyond == 0


def test_a_cast_in_the_first_call_only_is_part_of_the_need():
    """`b` is cast inside `a`, once: later calls find it so."""
    cast = Act("cast", "b", dtype="float32")
    script = Script(
        {"a": (1000,), "b": (4000,)}, (Act("run", "b"), Act("run", "a", inside=(cast,)))
    )
    profile = profiled(script)
    smallest = plan_offload(profile, 64 * GIB).smallest_budget_bytes
    plans = [plan_offload(profile, smallest + extra) for extra in range(0, 30_000, 1024)]
    beyond = [peak_beyond(script, plan) for plan in plans]
    assert set(beyond) == {0}


def test_a_budget_for_all_moves_each_component_once():
    script = Script({"a": (1000,), "b": (2000,)}, (Act("run", "a"), Act("run", "b")))
    profile = profiled(script)
    plan = plan_offload(profile, 2 * GIB)
    with VirtualGPU("rtx-4090") as gpu, quiet():
        pipe = build(script)
        manager = managed(pipe)
        manager.set_offload_strategy(plan.as_offload_strategy())
        for _ in range(3):
            pipe()
        assert on_gpu(pipe) == {"a", "b"}
        assert gpu.h2d_bytes == sum(part.bytes for part in profile.components)


def test_the_order_of_uses_comes_through_the_plan_s_file(tmp_path):
    inside = (Act("run", "b", scratch=50_000),)
    script = Script({"a": (1000,), "b": (2000,)}, (Act("run", "a", inside=inside), Act("run", "b")))
    plan = plan_offload(profiled(script), 2 * GIB)
    assert [(one.component, one.within) for one in plan.uses] == [
        ("a", ()),
        ("b", ("a",)),
        ("b", ()),
    ]
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.uses == plan.uses
    assert isinstance(again.as_offload_strategy(), OffloadStrategy)


def test_a_plan_that_is_too_old_or_too_small_for_whole_components_says_so():
    script = Script({"a": (1000, 5000)}, (Act("run", "a", scratch=1 * MIB),))
    plan = plan_offload(profiled(script), 2 * GIB)
    with pytest.raises(InputError, match="plan again"):
        dataclasses.replace(plan, uses=()).as_offload_strategy()
    margin = dataclasses.replace(
        plan.margin, budget_bytes=plan.margin.context_bytes + plan.margin.slack_bytes + MIB
    )
    with pytest.raises(FindingError, match="a need "):
        dataclasses.replace(plan, margin=margin).as_offload_strategy()


def run_sdxl(strategy=None):
    """Return (peak allocated, bytes of the second call) of SDXL under a manager, on a GPU of 8 GiB."""
    with VirtualGPU("rtx-4060", capacity="8GiB") as gpu, quiet():
        pipe = load_pipeline("sdxl-base", dtype="float16")
        pipe.set_progress_bar_config(disable=True)
        manager = managed(pipe)
        if strategy is not None:
            manager.set_offload_strategy(strategy)
        for _ in range(2):
            before = gpu.h2d_bytes + gpu.d2h_bytes
            pipe("a cat", num_inference_steps=1)
        return torch.cuda.max_memory_allocated(), gpu.h2d_bytes + gpu.d2h_bytes - before


@pytest.mark.slow
def test_sdxl_on_eight_gib_keeps_the_encoders_that_the_default_strategy_sends_away():
    """The encoders, 1.53 GiB, need not travel: decoding beside them fits, and beside the UNet it does not."""
    with VirtualGPU("rtx-4060", capacity="1TiB"), quiet():
        pipe = load_pipeline("sdxl-base", dtype="float16")
        pipe.set_progress_bar_config(disable=True)
        profile = profile_pipeline(pipe, mode="model", num_inference_steps=1)
    plan = plan_offload(profile, 8 * GIB)
    peak, moved = run_sdxl(plan.as_offload_strategy())
    default_peak, default_moved = run_sdxl()
    assert max(peak, default_peak) <= plan.margin.allocatable_bytes
    encoders = [part.bytes for part in profile.components if part.name.startswith("text_encoder")]
    assert default_moved - moved == 2 * sum(encoders)
