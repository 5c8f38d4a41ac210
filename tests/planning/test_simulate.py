"""The replay of accelerate's hooks, against logs written by hand."""

from __future__ import annotations

import pytest
from builders import GPU, Recorder, component
from hypothesis import given
from hypothesis import strategies as st
from offload_worlds import schemes, workloads

from profiler.errors import InputError
from profiler.placements.scheme import Scheme, scheme_for
from profiler.planning.costs.table import evaluate, tabulate
from profiler.planning.replaying.simulate import simulate
from profiler.planning.replaying.workload import workload_of

HOOK = "accelerate.CpuOffload"
FREE = "pipeline.maybe_free_model_hooks"
PLACE = "pipeline.enable_model_cpu_offload"


def three_parts() -> Recorder:
    """Text encoder (1024), denoiser (2048), VAE (512 in fp16, 1024 in fp32), under stock offload."""
    log = Recorder(component("te", (512, 512)), component("unet", (2048,)), component("vae"))
    log.begin().enter("te").onload("te").work(4096, keep=512).exit("te")
    log.phase = "denoise"
    log.step = 0
    log.enter("unet").offload("te").empty_cache().onload("unet").work(8192, keep=512).exit("unet")
    log.step = 1
    log.enter("unet").work(8192).exit("unet")
    log.phase, log.step = "decode", -1
    log.cast("vae", "float32", count=1024, resident=0)
    log.enter("vae", "decode").offload("unet").empty_cache()
    log.onload_bytes("vae", 1024).work(2048, keep=1024).exit("vae", "decode")
    log.cast("vae", "float16", count=512, resident=512, held=512)
    log.work(0, keep=-1024)
    log.offload("vae", FREE).empty_cache(FREE)
    return log.end()


def story(events):
    """Return what a reader of a log looks at first."""
    return [(e.call, e.kind, e.component, e.bytes, e.after_bytes) for e in events]


def test_replay_of_the_recorded_plan_is_the_recording():
    """Only the set-up, which was not recorded, comes on top."""
    profile = three_parts().profile()
    replayed = simulate(workload_of(profile), Scheme(("te", "unet", "vae")))
    assert [event._replace(ordinal=0) for event in replayed[1:]] == [
        event._replace(ordinal=0, start_seconds=0.0) for event in profile.events
    ]


def test_excluded_component_travels_at_the_end_of_each_stock_call():
    profile = three_parts().profile()
    scheme = Scheme(("te", "vae"), frozenset({"unet"}))
    # On the GPU: unet 2048 throughout, te 1024 until the VAE's hook evicts it. The cast meets the VAE on the CPU.
    assert story(simulate(workload_of(profile), scheme)) == [
        (-1, "empty_cache", "", 0, 0),
        (-1, "onload", "unet", 2048, 2048),
        (0, "begin", "", 0, 2048),
        (0, "enter", "te", 0, 2048),
        (0, "onload", "te", 1024, 3072),
        (0, "exit", "te", 0, 3584),
        (0, "enter", "unet", 0, 3584),
        (0, "exit", "unet", 0, 4096),
        (0, "enter", "unet", 0, 4096),
        (0, "exit", "unet", 0, 4096),
        (0, "cast", "vae", 1024, 4096),
        (0, "enter", "vae", 0, 4096),
        (0, "offload", "te", 1024, 3072),
        (0, "empty_cache", "", 0, 3072),
        (0, "onload", "vae", 1024, 4096),
        (0, "exit", "vae", 0, 5120),
        (0, "cast", "vae", 512, 4608),
        (0, "offload", "unet", 2048, 1536),
        (0, "offload", "vae", 512, 1024),
        (0, "empty_cache", "", 0, 1024),
        (0, "onload", "unet", 2048, 3072),
        (0, "end", "", 0, 3072),
    ]


def test_sticky_exclusion_moves_the_component_once_and_calls_repeat():
    workload = workload_of(three_parts().profile())
    events = simulate(workload, Scheme(("te", "vae"), frozenset({"unet"}), sticky=True), calls=3)
    assert [e.call for e in events if e.component == "unet" and e.kind == "onload"] == [-1]
    assert not [e for e in events if e.component == "unet" and e.kind == "offload"]
    second, third = ([e for e in events if e.call == call] for call in (1, 2))
    assert [e._replace(call=0, ordinal=0) for e in second] == [
        e._replace(call=0, ordinal=0) for e in third
    ]


def test_cast_on_the_gpu_holds_one_tensor_twice():
    # fp16 512 + 512 -> fp32 1024 + 1024. First tensor: 1024 + 1024 (new) = 2048, then 1536. Second: 1536 + 1024 = 2560.
    log = Recorder(component("vae", (512, 512), device=GPU))
    log.begin().cast("vae", "float32", count=2048, resident=2048).end()
    events = simulate(workload_of(log.profile()), Scheme((), frozenset({"vae"})))
    (cast,) = (event for event in events if event.kind == "cast")
    assert (cast.before_bytes, cast.peak_bytes, cast.after_bytes) == (1024, 2560, 2048)


def test_predecessor_is_evicted_even_if_its_successor_is_on_the_gpu():
    """img2img: the VAE is used before and after the denoiser."""
    log = Recorder(component("vae", device=GPU), component("unet", (1024,), device=GPU))
    log.begin().run("vae", entry="encode").run("unet").run("vae", entry="decode").run("unet").end()
    events = simulate(workload_of(log.profile(mode="resident")), Scheme(("vae", "unet")))
    moves = [(e.kind, e.component) for e in events if e.kind in ("onload", "offload")]
    # decode does not evict the unet, which follows the VAE; the next unet entry evicts the VAE though the unet is on.
    assert moves == [
        ("onload", "vae"),
        ("offload", "vae"),
        ("onload", "unet"),
        ("onload", "vae"),
        ("offload", "vae"),
        ("offload", "unet"),
    ]


def test_nothing_hooked_moves_nothing_at_the_end_of_a_stock_call():
    log = Recorder(component("unet", device=GPU))
    workload = workload_of(log.begin().run("unet").end().profile(mode="resident"))
    events = simulate(workload, Scheme((), frozenset({"unet"})), calls=2)
    assert [e.call for e in events if e.kind in ("onload", "offload", "empty_cache")] == [-1, -1]


def test_entry_without_a_hook_moves_nothing():
    """`text_encoder.get_text_features` does not pass by `forward`, so no hook acts."""
    log = Recorder(component("te", device=GPU))
    workload = workload_of(
        log.begin().run("te", entry="get_text_features").end().profile(mode="resident")
    )
    scheme = Scheme(("te",))
    assert not [e for e in simulate(workload, scheme) if e.kind == "onload"]
    assert not tabulate(workload).sound(scheme)


def test_later_calls_start_with_what_the_last_one_left_behind():
    """The unet's first run makes a workspace of 512 bytes; the next call has it from the start: `te` peaks higher."""
    log = Recorder(component("te", device=GPU), component("unet", device=GPU))
    log.begin().run("te", peak=100).run("unet", peak=1000, keep=512).end()
    events = simulate(
        workload_of(log.profile(mode="resident")), Scheme((), frozenset({"te", "unet"})), calls=2
    )
    assert [e.lead_peak_bytes for e in events if e.kind == "exit"] == [1124, 2024, 1636, 2024]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "sequential"}, "mode 'sequential'"),
        ({"complete": False, "error": "out of memory"}, "incomplete profile .out of memory"),
        ({"events": ()}, "without a call"),
    ],
)
def test_profiles_that_cannot_be_planned_from_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        workload_of(three_parts().profile(**changes))


def test_scheme_ignores_what_diffusers_ignores():
    """Names without a component, and the exclusion of a component that the sequence names."""
    scheme = scheme_for(("te", "unet"), sequence=("te", "image_encoder"), excluded=("te", "unet"))
    assert scheme == Scheme(("te",), frozenset({"unet"}))


def test_names_without_a_component_are_skipped_in_the_chain():
    """`text_encoder->image_encoder->unet` without an image encoder: the unet evicts the text encoder."""
    workload = workload_of(three_parts().profile())
    odd = Scheme(("te", "image_encoder", "unet", "vae"), frozenset({"te", "feature_extractor"}))
    plain = Scheme(("te", "unet", "vae"))
    assert simulate(workload, odd) == simulate(workload, plain)
    assert evaluate(tabulate(workload), odd) == evaluate(tabulate(workload), plain)


@given(st.data())
def test_totals_by_tables_are_those_of_the_log(data):
    """`evaluate` sums tables and collapses equal steps; `simulate` walks. One call more than was recorded, and two."""
    workload = data.draw(workloads())
    scheme = data.draw(schemes(workload.names))
    calls = len(workload.calls) + 2
    events = simulate(workload, scheme, calls=calls)
    totals = evaluate(tabulate(workload), scheme)
    last = [event for event in events if event.call == calls - 1]
    assert totals.h2d_weight_bytes == sum(e.bytes for e in last if e.kind == "onload")
    assert totals.d2h_weight_bytes == sum(e.bytes for e in last if e.kind == "offload")
    in_calls = [event for event in events if event.call >= 0]
    assert totals.peak_allocated_bytes == max(
        max(e.lead_peak_bytes, e.peak_bytes) for e in in_calls
    )
