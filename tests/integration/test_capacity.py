"""No plan that is promised to fit exceeds its budget: random pipelines, calls, budgets and host memories.

The pipelines are of the catalogue, with few layers of the real width. Each plan is confirmed as `vram plan` does it,
by short calls under its budget as the card's capacity, and then has to get through more and longer ones under that
capacity. `--plan-cases 500` tries as many cases.
"""

from __future__ import annotations

import functools
import random

from shallow_models import shallow_pipeline

from profiler.applying.apply import apply
from profiler.confirming import confirmed_plan
from profiler.errors import FindingError
from profiler.hardware import card
from profiler.pipelines.quiet import quiet
from profiler.planning import Wish, plan_offload
from profiler.sizing import CONFIRMING_ROUNDS
from profiler.tracing import profile_pipeline, trace
from profiler.units import GIB, TIB
from profiler.virtual import VirtualGPU

CARD = card("rtx-4090")
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


def call_of(model, size, batch):
    count = {"num_videos_per_prompt": batch} if "num_frames" in MODELS[model] else {}
    return {"prompt": "a cat", "height": size, "width": size, **MODELS[model], **count}


@functools.lru_cache(maxsize=1)
def profile(model, size, batch):
    with VirtualGPU(CARD.with_capacity(TIB)), quiet():
        pipe = shallow_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        call = call_of(model, size, batch)
        return profile_pipeline(pipe, mode="model", num_inference_steps=3, **call)


def gets_through(plan, model, size, batch, *, steps, calls):
    """Whether so many calls get through under the plan's budget as the card's capacity."""
    with VirtualGPU(CARD.with_capacity(plan.budget_bytes)), quiet():
        pipe = shallow_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        try:
            apply(plan, pipe)
            with trace(pipe) as t:
                for _ in range(calls):
                    pipe(num_inference_steps=steps, **call_of(model, size, batch))
        except RuntimeError:
            return False
        peak = t.profile.totals.device_bytes
    assert peak <= plan.budget_bytes
    return True


def cases(count):
    chance = random.Random(20261121)
    while count > 0:
        call = (chance.choice(list(MODELS)), chance.choice(SIZES), chance.choice((1, 1, 2)))
        for _ in range(min(CASES_A_CALL, count)):
            yield call, chance.random(), chance.choice((None, None, chance.random()))
            count -= 1


def test_no_promised_plan_exceeds_its_budget(request):
    promised = 0
    for call, tightness, ram in cases(request.config.getoption("--plan-cases")):
        found = profile(*call)
        roomy = plan_offload(found, TIB)
        least, most = roomy.smallest_budget_bytes, roomy.predicted.device_bytes
        budget = least + int((most - least) * tightness**2)
        weights = sum(part.bytes for part in found.components)
        ram_bytes = None if ram is None else int(weights * (0.5 + 1.5 * ram)) + GIB
        wish = Wish(budget_bytes=budget, ram_bytes=ram_bytes)
        try:
            plan = confirmed_plan(
                found,
                wish,
                gets_through=lambda plan, call=call: gets_through(
                    plan, *call, steps=3, calls=CONFIRMING_ROUNDS
                ),
            )
        except FindingError:
            continue  # no promise
        promised += 1
        assert plan.margin.device_bytes <= budget
        assert gets_through(plan, *call, steps=4, calls=4), (call, budget, ram_bytes, repr(plan))
    assert promised >= request.config.getoption("--plan-cases") // 2
