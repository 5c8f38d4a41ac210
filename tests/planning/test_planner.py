"""The planner's answers, and the file they are kept in."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from builders import GPU, Recorder, component, gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from offload_worlds import workloads

from profiler.errors import InputError
from profiler.placements.scheme import Scheme
from profiler.planning import DoesNotFitError, Plan, Wish, plan_offload
from profiler.planning.choices import choices_of
from profiler.planning.costs.table import evaluate, tabulate
from profiler.planning.does_not_fit import remedies
from profiler.planning.replaying.simulate import simulate
from profiler.planning.search.solver import search
from profiler.units import format_seconds
from reports.plan_text import text_of

KIB = 1024
STOCK = {"levers": (), "objective": "bytes"}
"""Plans by diffusers' own calls, the end of a call apart."""


def head(budget):
    """Return the comments with which the code of a plan for `text_to_image` begins."""
    return f"# Planned for TinyPipeline on Test GPU (1.00 GiB), within {budget}.\n# It holds for float16.\n"


def text_to_image(**changes):
    """Encoder 2 KiB, denoiser 8 KiB, VAE 1 KiB; activations 1, 2 and 4 KiB. Resident: 11 KiB of weights."""
    sizes = {"te": 2 * KIB, "unet": 8 * KIB, "vae": KIB}
    log = Recorder(*(component(name, (size,), device=GPU) for name, size in sizes.items()))
    log.begin().run("te", KIB)
    log.phase = "denoise"
    for log.step in range(3):
        log.run("unet", 2 * KIB)
    log.phase, log.step = "decode", -1
    log.run("vae", 4 * KIB, entry="decode").end()
    facts = {"mode": "resident", "sequence": ("te", "unet", "vae")}
    return log.profile(**(facts | changes))


def test_with_room_for_everything_nothing_is_offloaded():
    # 11 KiB of weights + 4 KiB of the VAE's activations.
    plan = plan_offload(text_to_image(), 15 * KIB, **STOCK)
    assert plan.placements == {"te": "resident", "unet": "resident", "vae": "resident"}
    assert (plan.predicted.peak_allocated_bytes, plan.predicted.h2d_weight_bytes) == (15 * KIB, 0)
    assert plan.to_code() == head("15.0 KiB") + 'pipe.to("cuda")\n'
    assert repr(plan).endswith("keeps te, unet, vae; nothing in turn; 15.0 KiB of 15.0 KiB>")


def test_a_smaller_budget_keeps_the_denoiser_and_moves_the_encoder():
    # unet + vae stay (9 KiB), VAE's activations 4 KiB: 13 KiB, if te is gone by then. Only te moves, 2 KiB each way.
    # te needs a successor to evict it, but unet and vae are excluded: it would stay to the end, 15 KiB. So the VAE is
    # hooked as well: unet 8 + vae 1 + 4 = 13 KiB, 3 KiB each way. Moving te and vae in the order te -> vae does it.
    plan = plan_offload(text_to_image(), 13 * KIB, **STOCK)
    assert (plan.sequence, plan.excluded, plan.sticky) == (("te", "vae"), ("unet",), True)
    assert plan.predicted.peak_allocated_bytes == 13 * KIB
    assert (plan.predicted.h2d_weight_bytes, plan.predicted.d2h_weight_bytes) == (3 * KIB, 3 * KIB)
    assert plan.moves == (
        ("onload", "te", 2 * KIB),
        ("offload", "te", 2 * KIB),
        ("onload", "vae", KIB),
        ("offload", "vae", KIB),
    )


def test_as_it_is_and_runner_up_are_told():
    plan = plan_offload(text_to_image(), 13 * KIB, **STOCK)
    assert plan.stock.predicted.peak_allocated_bytes == 10 * KIB
    assert plan.stock.predicted.h2d_weight_bytes == 11 * KIB
    assert plan.runner_up is not None
    assert plan.runner_up.predicted.h2d_weight_bytes >= plan.predicted.h2d_weight_bytes


def test_without_sticky_exclusion_stock_moves_everything_anyway():
    plan = plan_offload(text_to_image(), 13 * KIB, sticky=False, **STOCK)
    # The sequence moves peaks, not bytes, so the lowest peak wins: unet 8 + 2 KiB of activations.
    assert plan.sticky is False
    assert plan.predicted.h2d_weight_bytes == 11 * KIB
    assert plan.predicted.peak_allocated_bytes == 10 * KIB


def test_margin_adds_up_and_bounds_the_plan():
    spec = gpu(context_bytes=300, slack_bytes=40)
    profile = text_to_image(gpu=spec, error_band=0.1)
    # 300 + 15360 + 40 + 1536 = 17236
    plan = plan_offload(profile, 17236, **STOCK)
    assert (plan.margin.device_bytes, plan.margin.left_bytes) == (17236, 0)
    assert plan.predicted.device_bytes == 17236
    assert plan_offload(profile, 17235, **STOCK).placements != plan.placements


def test_smallest_budget_is_the_edge():
    profile = text_to_image()
    plan = plan_offload(profile, 15 * KIB, **STOCK)
    assert (plan.smallest_budget_bytes, plan.smallest.component) == (10 * KIB, "unet")
    assert plan_offload(profile, 10 * KIB, **STOCK).sequence == ("te", "unet", "vae")
    with pytest.raises(DoesNotFitError, match=r"1 B are missing.*unet.*sequential") as caught:
        plan_offload(profile, 10 * KIB - 1, **STOCK)
    assert (caught.value.exit_code, caught.value.missing_bytes) == (3, 1)


def test_what_to_try_is_what_would_lower_that_peak():
    profile = text_to_image()
    smallest = plan_offload(profile, 15 * KIB, **STOCK).smallest
    wish = Wish(budget_bytes=KIB, ram_bytes=12 * KIB)

    def tried(component, moment, weight_bytes, other_bytes):
        held = {"weight_bytes": weight_bytes * KIB, "other_bytes": other_bytes * KIB}
        return remedies(
            profile, replace(smallest, component=component, moment=moment, **held), wish
        )

    smaller = "a smaller height and width, fewer frames or a smaller batch"
    more, tiles = "more host memory, or the lever disk", "pipe.vae.enable_tiling()"
    assert tried("te", "encode", 2, 1) == [more, "a quantised te", smaller]
    # Of 11 KiB of weights during the decode the VAE has one.
    assert tried("vae", "decode", 11, 4) == [more, "a quantised unet", tiles, smaller]
    assert tried("vae", "decode", 0, 4) == [tiles, smaller]


def test_front_runs_from_the_smallest_peak_to_no_transfers():
    plan = plan_offload(text_to_image(), 15 * KIB, **STOCK)
    points = [
        (one.predicted.peak_allocated_bytes, one.predicted.h2d_weight_bytes) for one in plan.front
    ]
    assert points[0] == (10 * KIB, 11 * KIB)
    assert points[-1] == (15 * KIB, 0)
    assert points == sorted(points)
    assert [moved for _, moved in points] == sorted((m for _, m in points), reverse=True)


def test_seconds_weigh_the_two_directions_by_the_link():
    # te: 2 KiB each way at 1e3 and 5e2 B/s. Computing takes as long as in the profile: events are one second apart.
    spec = gpu(h2d_bytes_per_second=1e3, d2h_bytes_per_second=5e2)
    plan = plan_offload(text_to_image(gpu=spec), 13 * KIB, objective="seconds", levers=())
    assert plan.proof.cost == round((3 * KIB / 1e3 + 3 * KIB / 5e2) * 1e9)
    assert plan.predicted.seconds == pytest.approx(11 + plan.proof.cost / 1e9)


def test_of_plans_that_are_tied_the_one_that_changes_the_fewest_placements_wins():
    # Keeping the denoiser saves 8 KiB each way, at 1e6 and 5e5 B/s 25 ms of 11 s: too little to be told from noise.
    fast = text_to_image(gpu=gpu(d2h_bytes_per_second=5e5))
    plan = plan_offload(fast, 13 * KIB, objective="seconds", levers=())
    assert (plan.sequence, plan.excluded) == (("te", "unet", "vae"), ())
    assert plan.runner_up.excluded == ("unet",)
    saved = 8 * KIB / 1e6 + 8 * KIB / 5e5
    assert plan.tied_seconds == pytest.approx(saved)
    assert plan.predicted.seconds - plan.runner_up.predicted.seconds == pytest.approx(saved)
    assert f"gap 0, {format_seconds(saved)} from the fastest: " in text_of(plan)


def test_everything_on_the_gpu_is_one_change():
    # Its copies would take 0.22 s of 11.2 s.
    spec = gpu(h2d_bytes_per_second=1e5, d2h_bytes_per_second=1e5)
    plan = plan_offload(text_to_image(gpu=spec), 15 * KIB, objective="seconds", levers=())
    assert plan.to_code() == head("15.0 KiB") + 'pipe.to("cuda")\n'


def test_seconds_need_copy_rates():
    profile = text_to_image(gpu=gpu(h2d_bytes_per_second=0.0))
    with pytest.raises(InputError, match="copy rates of Test GPU are unknown"):
        plan_offload(profile, 15 * KIB, objective="seconds", levers=())
    assert plan_offload(profile, 15 * KIB, **STOCK).predicted.seconds is None


def test_unknown_objective_is_refused():
    with pytest.raises(InputError, match="'speed'"):
        plan_offload(text_to_image(), 15 * KIB, objective="speed", levers=())


def test_component_that_alternates_with_the_denoiser_is_not_chained_to_it():
    """A ControlNet in the loop: in the sequence beside the unet, one would evict the other at every step."""
    names = ("te", "controlnet", "unet")
    log = Recorder(*(component(name, (1024,), device=GPU) for name in names)).begin().run("te")
    for _ in range(4):
        log.run("controlnet").run("unet")
    profile = log.end().profile(mode="resident", sequence=("te", "unet"))
    plan = plan_offload(profile, 2048, **STOCK)
    assert (plan.sequence, plan.excluded) == (("te", "unet"), ("controlnet",))
    assert plan.predicted.h2d_weight_bytes == 2048


def test_eight_bit_weights_stay_where_they_are():
    te = component("te", (1024,), device=GPU, quantization="bitsandbytes-8bit")
    log = Recorder(te, component("unet", (2048,), device=GPU)).begin().run("te").run("unet").end()
    profile = log.profile(mode="resident", sequence=("te", "unet"))
    plan = plan_offload(profile, 4096, **STOCK)
    assert plan.smallest_budget_bytes == 3072
    assert (plan.placements["te"], plan.immovable) == ("resident", ("te",))
    assert plan.to_code() == head("4.0 KiB") + 'pipe.to("cuda")\n'
    assert plan.stock.excluded == ()
    assert plan.stock.predicted.h2d_weight_bytes == 2048


def test_eight_bit_weights_move_where_the_libraries_can_move_them():
    te = component("te", (1024,), device=GPU, quantization="bitsandbytes-8bit")
    log = Recorder(te, component("unet", (2048,), device=GPU)).begin().run("te").run("unet").end()
    versions = {"bitsandbytes": "0.48.1", "transformers": "5.23.0"}
    profile = log.profile(mode="resident", sequence=("te", "unet"), versions=versions)
    assert plan_offload(profile, 4096, **STOCK).smallest_budget_bytes == 2048


def test_component_evicted_by_what_it_calls_is_no_candidate():
    """`outer` calls `inner` and goes on: with outer -> inner its weights would leave while it runs."""
    parts = [component(name, (1024,), device=GPU) for name in ("outer", "inner")]
    log = Recorder(*parts).begin().enter("outer").run("inner").work(512).exit("outer").end()
    plan = plan_offload(log.profile(mode="resident"), 1 << 20, **STOCK)
    assert all(one.sequence != ("outer", "inner") for one in (*plan.front, plan.smallest.plan))


def test_plan_survives_its_file(tmp_path):
    plan = plan_offload(text_to_image(call={"prompt": "a cat", "height": 64}), 13 * KIB, **STOCK)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": 1}', "is not a plan"),
        ('{"kind": "vram-profiler plan", "schema_version": 99}', "plan version 99"),
        ('{"kind": "vram-profiler plan", "schema_version": 1}', "damaged plan"),
    ],
)
def test_foreign_files_are_refused(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Plan.load(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        Plan.load(tmp_path / "none.json")


def test_summary_has_the_keys_that_scripts_rely_on():
    summary = plan_offload(text_to_image(), 13 * KIB, **STOCK).summary()
    assert set(summary) == {"schema_version", "model", "pipeline_class", "gpu", "plan"}
    assert {"placements", "budget_bytes", "predicted", "proof"} <= set(summary["plan"])
    json.dumps(summary)


def test_text_and_html_tell_the_same_plan():
    plan = plan_offload(text_to_image(model="tiny"), 13 * KIB, **STOCK)
    for shown in (plan.to_text(), plan._repr_html_()):
        assert "tiny" in shown
        assert "13.0 KiB" in shown


def test_sticky_code_keeps_the_caches_and_the_excluded():
    code = plan_offload(text_to_image(), 13 * KIB, **STOCK).to_code()
    assert code.startswith(head("13.0 KiB"))
    assert code.splitlines()[2:5] == [
        'pipe.model_cpu_offload_seq = "te->vae"',
        'pipe._exclude_from_cpu_offload = ["unet"]',
        "pipe.enable_model_cpu_offload()",
    ]
    assert "_reset_stateful_cache" in code


def every_scheme(names):
    for size in range(len(names) + 1):
        for sequence in permutations(names, size):
            others = [name for name in names if name not in sequence]
            for count in range(len(others) + 1):
                for excluded in combinations(others, count):
                    yield Scheme(sequence, frozenset(excluded))
                    if excluded and count < len(names):
                        yield Scheme(sequence, frozenset(excluded), sticky=True)


@settings(max_examples=60, deadline=None)
@given(workloads(most=3), st.integers(0, 20_000))
def test_the_plan_is_that_of_trying_everything(workload, limit):
    """Every scheme is replayed event by event; the search never sees an event."""
    cost_table = tabulate(workload)
    stock = Scheme(workload.names)
    choices = choices_of(
        workload, cost_table, stock, lambda r: r.h2d_bytes + r.d2h_bytes, sticky=True
    )
    ranks, candidates = [], 0
    for scheme in every_scheme(workload.names):
        if not cost_table.sound(scheme):
            continue
        candidates += 1
        cost, peak = replayed(workload, scheme)
        if peak <= limit:
            ranks.append((cost, peak))
    found = search(choices.problems, limit=limit).found
    assert [(one.cost, one.peak) for one in found] == sorted(ranks)[:2]
    assert choices.candidates == candidates
    for one in found:
        scheme = choices.scheme(one)
        totals = evaluate(cost_table, scheme)
        moved = totals.h2d_weight_bytes + totals.d2h_weight_bytes
        assert (one.cost, one.peak) == (moved, totals.peak_allocated_bytes)


def replayed(workload, scheme):
    calls = len(workload.calls) + 2
    events = simulate(workload, scheme, calls=calls)
    moved = sum(e.bytes for e in events if e.call == calls - 1 and e.kind in ("onload", "offload"))
    return moved, max(max(e.lead_peak_bytes, e.peak_bytes) for e in events if e.call >= 0)


def test_eight_components_take_seconds():
    names = [f"part_{index}" for index in range(8)]
    parts = [component(name, (1024 * (index + 1),), device=GPU) for index, name in enumerate(names)]
    log = Recorder(*parts).begin()
    for name in names[:4]:
        log.run(name, 512)
    for _ in range(30):
        log.run(names[7], 4096).run(names[4], 2048)
    for name in (names[5], names[0], names[6], names[1]):
        log.run(name, 3000, keep=100)
    profile = log.end().profile(mode="resident", sequence=tuple(names))
    start = time.perf_counter()
    roomy = plan_offload(profile, 1 << 20, **STOCK)
    smallest = roomy.smallest_budget_bytes
    assert roomy.front[0].predicted.device_bytes == smallest
    for budget in range(smallest, 36 * KIB, 4 * KIB):
        assert plan_offload(profile, budget, **STOCK).proof.gap == 0
    assert time.perf_counter() - start < 60
