"""No plan that is promised to fit exceeds its budget: random pipelines, calls, budgets and host memories.

The pipelines are of the catalogue, with few layers of the real width. Each plan is confirmed as `vram plan` does it,
by short calls on GPUs of its budget and of a little less, and then has to get through more and longer ones.
`--plan-cases 500` tries as many cases.
"""

from __future__ import annotations

import functools
import random

from shallow_models import shallow_pipeline

from profiler.applying.apply import apply
from profiler.errors import FindingError
from profiler.gpus.hardware import gpu_spec
from profiler.pipelines.quiet import quiet
from profiler.planning import Wish, plan_offload
from profiler.record.readings import called_peak_bytes
from profiler.sizing.confirming import ROUNDS, confirmed_plan
from profiler.tracing import profile_pipeline, trace
from profiler.units import GIB, TIB
from profiler.virtual import VirtualGPU

GPU = gpu_spec("rtx-4090")
MODELS = {
    "sd15": {},
    "sdxl-base": {},
    "sd3-medium": {},
    "flux1-dev": {},
    "qwen-image": {},
    "pixart-sigma-xl": {"use_resolution_binning": False},
    "cogvideox-2b": {"num_frames": 9},
    "wan2.1-t2v-1.3b": {"num_frames": 5},
}
SIZES = (256, 320, 512)
CASES_A_CALL = 5
LONGER = (4, 4, 6)


def call_of(model, size, batch):
    count = {"num_videos_per_prompt": batch} if "num_frames" in MODELS[model] else {}
    return {"prompt": "a cat", "height": size, "width": size, **MODELS[model], **count}


@functools.lru_cache(maxsize=1)
def profile(model, size, batch):
    with VirtualGPU(GPU.with_capacity(TIB)), quiet():
        pipe = shallow_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        call = call_of(model, size, batch)
        return profile_pipeline(pipe, mode="model", num_inference_steps=3, **call)


def run_peak(plan, model, size, batch, *, steps, capacity):
    """Return the peak of calls of so many steps each under the plan on a GPU of this capacity; None if one fails."""
    with VirtualGPU(GPU.with_capacity(capacity)), quiet():
        pipe = shallow_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        try:
            apply(plan, pipe)
            with trace(pipe) as t:
                for count in steps:
                    pipe(num_inference_steps=count, **call_of(model, size, batch))
        except RuntimeError:
            return None
    assert t.profile.totals.device_bytes <= capacity
    return called_peak_bytes(t.profile)


def cases(count):
    chance = random.Random(20261121)
    while count > 0:
        call = (chance.choice(list(MODELS)), chance.choice(SIZES), chance.choice((1, 1, 2)))
        for _ in range(min(CASES_A_CALL, count)):
            yield call, chance.random(), chance.choice((None, None, chance.random()))
            count -= 1


def promise(call, budget, ram_bytes=None):
    """Return the plan that is promised; None where none is."""
    wish = Wish(budget_bytes=budget, ram_bytes=ram_bytes)
    try:
        return confirmed_plan(
            profile(*call),
            wish,
            run_peak=lambda plan, capacity: run_peak(plan, *call, steps=ROUNDS, capacity=capacity),
        )
    except FindingError:
        return None


def test_what_three_calls_alike_did_not_show():
    """Under this budget a plan got through three calls of three steps, and neither through a fourth nor longer ones."""
    call, budget = ("wan2.1-t2v-1.3b", 320, 1), 2_890_452_166
    plan = promise(call, budget)
    assert plan is None or run_peak(plan, *call, steps=(3, 3, 3, 3, 4, 4), capacity=budget)


def test_what_a_gpu_with_less_got_through():
    """Under this budget calls get through with 64 MiB less, which empty the cache in time, and not without."""
    call, budget, ram_bytes = ("cogvideox-2b", 512, 2), 8_990_906_797, 4_642_769_543
    plan = promise(call, budget, ram_bytes)
    assert plan is None or run_peak(plan, *call, steps=LONGER, capacity=budget)


def test_no_promised_plan_exceeds_its_budget(request):
    promised, exceeded = 0, []
    for call, tightness, ram in cases(request.config.getoption("--plan-cases")):
        found = profile(*call)
        roomy = plan_offload(found, TIB)
        least, most = roomy.smallest_budget_bytes, roomy.predicted.device_bytes
        budget = least + int((most - least) * tightness**2)
        weights = sum(part.bytes for part in found.components)
        ram_bytes = None if ram is None else int(weights * (0.5 + 1.5 * ram)) + GIB
        plan = promise(call, budget, ram_bytes)
        if plan is None:
            continue
        promised += 1
        assert plan.margin.device_bytes <= budget
        if not run_peak(plan, *call, steps=LONGER, capacity=budget):
            exceeded.append(f"{call} under {budget} with RAM {ram_bytes}: {plan!r}")
    assert not exceeded, "\n".join(exceeded)
    assert promised >= request.config.getoption("--plan-cases") // 2
