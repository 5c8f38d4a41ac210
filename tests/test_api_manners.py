"""What a caller gets wrong is answered in one sentence; sizes and words may be text; results show themselves."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from placed_worlds import nets, place
from profile_worlds import sdxl_model_offload
from tiny_folder import write_tiny_pipeline

import profiler
import reports
from profiler import Call, InputError, Plan, Profile, VirtualGPU
from profiler.planning import Wish
from profiler.record.components import Component
from profiler.sizing.scenario import Scenario

PROFILE = sdxl_model_offload(steps=2)
GIB = 1 << 30


def traced(target):
    with profiler.trace(target):
        raise AssertionError("it was taken")


PIPE = nets()
PLAN = place(nets(), excluded=["encoder"])
GPU = "rtx-4060"
# What each public function takes first (and where it takes two things of ours, second), called with it.
TAKES = {
    "Call": (Call, "pipe None"),
    "VirtualGPU": (VirtualGPU, ""),
    "apply": (lambda x: profiler.apply(x, PIPE), "plan"),
    "apply, second": (lambda x: profiler.apply(PLAN, x), "pipe"),
    "apply, also": (lambda x: profiler.apply(PLAN, PIPE, also=x), "list"),
    "Plan.apply": (PLAN.apply, "pipe"),
    "gpu_spec": (profiler.gpu_spec, ""),
    "largest_fitting": (lambda x: profiler.largest_fitting(x, "batch"), ""),
    "largest_fitting, second": (
        lambda x: profiler.largest_fitting(Scenario(model="sd15"), x),
        "",
    ),
    "load_pipeline": (profiler.load_pipeline, ""),
    "plan_model": (lambda x: profiler.plan_model(x, 8 * GIB), "profile"),
    "plan_model, second": (lambda x: profiler.plan_model(PROFILE, x), ""),
    "plan_offload": (lambda x: profiler.plan_offload(x, 8 * GIB), "profile"),
    "plan_offload, second": (lambda x: profiler.plan_offload(PROFILE, x), ""),
    "profile_calls": (lambda x: profiler.profile_calls(x, Call(), gpu=GPU), "pipe"),
    "profile_calls, second": (lambda x: profiler.profile_calls(PIPE, x, gpu=GPU), ""),
    "profile_model": (profiler.profile_model, ""),
    "profile_on_gpus": (profiler.profile_on_gpus, ""),
    "profile_on_gpus, second": (
        lambda x: profiler.profile_on_gpus(Scenario(model="sd15"), x),
        "",
    ),
    "profile_pipeline": (lambda x: profiler.profile_pipeline(x, gpu=GPU), "pipe"),
    "profile_pipeline, gpu": (lambda x: profiler.profile_pipeline(PIPE, gpu=x), "None"),
    "profile_pipeline, mode": (lambda x: profiler.profile_pipeline(PIPE, gpu=GPU, mode=x), "None"),
    "trace": (traced, "pipe module"),
    "trace, also": (lambda x: profiler.trace(PIPE, also=x), "list"),
    "trace, label": (lambda x: profiler.trace(PIPE, label={"colour": x}), ""),
    "verify": (lambda x: profiler.verify(x, PLAN), "pipe"),
    "verify, second": (lambda x: profiler.verify(PIPE, x), "plan"),
    "verify_plan": (profiler.verify_plan, "plan"),
    "Plan": (Plan.load, ""),
    "Profile": (Profile.load, ""),
    "Plan.save": (PLAN.save, ""),
    "VirtualGPU, capacity": (lambda x: VirtualGPU(capacity=x), "None"),
    "Wish, levers": (lambda x: profiler.plan_offload(PROFILE, GIB, levers=x), "None"),
}
GIVEN = {
    "None": None,
    "pipe": PIPE,
    "module": PIPE.vae,
    "plan": PLAN,
    "profile": PROFILE,
    "list": [PIPE],
    "class": type(PIPE),
    "number": -3,
    "number with a fraction": 8e9,
    "text": "nonesuch\nat all",
    "path": Path("nonesuch/at all"),
}
WRONG = [
    (name, given)
    for name, (_, right) in TAKES.items()
    for given in GIVEN
    if given not in right.split()
]
NOTHING_TO_GET_WRONG = {
    "catalogue",
    "FindingError",
    "GpuSpec",
    "InputError",
    "Largest",
    "Mode",
    "OnGpu",
    "ProfilerError",
    "Scenario",
    "gpu_specs",
}


def test_every_public_function_is_asked():
    public = {name for name in profiler.__all__ if not name.startswith("__")}
    assert {name.partition(",")[0] for name in TAKES} >= public - NOTHING_TO_GET_WRONG


@pytest.mark.parametrize(("name", "given"), WRONG)
def test_what_is_no_such_thing_is_answered_in_one_sentence(name, given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if (name, given) in {("Plan.save", "text"), ("Plan.save", "path")}:
        pytest.skip("a path that a file can have")
    with pytest.raises(InputError) as caught:
        TAKES[name][0](GIVEN[given])
    assert 10 < len(str(caught.value)) < 700
    assert "object at 0x" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -1, "0GiB", "-8GiB", "8", "much", True, 0.5])
def test_a_budget_is_a_size(size):
    with pytest.raises(InputError, match="is not a size"):
        profiler.plan_offload(PROFILE, size)
    with pytest.raises(InputError, match="is not a size"):
        profiler.plan_model(PROFILE, "8GiB", ram_bytes=size)


def test_sizes_and_levers_may_be_text():
    known = profiler.plan_offload(PROFILE, 7 * GIB, ram_bytes=32 * GIB, levers=("swap", "stream"))
    text = profiler.plan_offload(PROFILE, "7GiB", ram_bytes="32GiB", levers="swap, stream")
    assert text == known
    unnamed = dataclasses.replace(PROFILE, model="")  # not run again to confirm the plan
    planned = profiler.plan_model(unnamed, "7GiB", ram_bytes="32GiB", levers="swap,stream")
    assert planned == dataclasses.replace(known, model="")
    assert profiler.plan_offload(PROFILE, np.int64(7 * GIB), levers=()) == profiler.plan_offload(
        PROFILE, "7GiB", levers="none"
    )
    assert VirtualGPU(capacity="8GiB").capacity_bytes == 8 * GIB


def test_wishes_are_named_with_their_choices():
    for wish, told in (
        ({"objective": "beauty"}, "seconds, bytes, first-image"),
        ({"levers": "swop"}, "swap, stream, group, sequential, disk"),
        ({"levers": ("swap", 3)}, "'none'"),
        ({"time_limit_seconds": 0}, "seconds"),
        ({"time_limit_seconds": "soon"}, "'soon'"),
    ):
        with pytest.raises(InputError, match=told):
            profiler.plan_offload(PROFILE, "8GiB", **wish)
    with pytest.raises(InputError, match="vae-slicing"):
        profiler.plan_model(Scenario(model="sd15"), "8GiB", allow="tiles")


@pytest.mark.parametrize("function", [profiler.plan_offload, profiler.plan_model, Plan.apply])
def test_keywords_are_named_in_the_signature(function):
    parameters = inspect.signature(function).parameters
    assert [one for one in parameters.values() if one.kind is one.VAR_KEYWORD] == []
    assert all(f"{name}: " in function.__doc__ for name in list(parameters)[1:])
    if function is profiler.plan_offload:
        wishes = {one.name for one in dataclasses.fields(Wish)}
        assert set(parameters) - {"profile"} <= wishes
    with pytest.raises(TypeError, match="unexpected keyword argument 'budjet'"):
        function(PLAN, PROFILE, budjet=1)


@pytest.mark.parametrize("given", ["nf4", "bnb-nf4", ["bnb-nf4"], 4])
def test_quantisation_is_by_component(given):
    with pytest.raises(InputError, match="name the component"):
        profiler.load_pipeline("sd15", quantization=given)


def test_gpus_and_strategies_show_themselves():
    gpu = VirtualGPU(GPU, capacity="6GiB")
    assert repr(gpu) == "<VirtualGPU rtx-4060, 6.00 GiB, not active>"
    with gpu:
        assert repr(gpu) == "<VirtualGPU rtx-4060, 6.00 GiB, active>"
    plan = profiler.plan_offload(PROFILE, 12 * GIB)
    assert re.fullmatch(
        "<OffloadStrategy: text_encoder -> text_encoder_2 -> unet -> vae, within .* GiB allocated>",
        repr(plan.as_offload_strategy()),
    )


@pytest.mark.parametrize("name", ["report.html", "report.png"])
def test_a_plan_is_shown_beside_a_profile_of_its_own(name, tmp_path):
    write = reports.write_html if name.endswith("html") else reports.write_png
    write(tmp_path / name, PROFILE, plan=profiler.plan_offload(PROFILE, 12 * GIB))
    told = "the plan is for .* and the profile of .*: show one beside its own"
    with pytest.raises(InputError, match=told):
        write(tmp_path / f"other {name}", PROFILE, plan=PLAN)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_profile_that_ran_out_of_memory_says_what_to_plan_from():
    with VirtualGPU(GPU, capacity="1GiB"):
        short = profiler.profile_pipeline(profiler.load_pipeline("sd15"), num_inference_steps=1)
    with pytest.raises(
        InputError, match=r'profile it on a GPU that is large enough \(gpu="h200"\)'
    ):
        profiler.plan_offload(short, 2 * GIB)


def test_calls_and_plans_in_effect_show_themselves():
    call = Call(PIPE, weight=2, cached_prompt=True, height=512, image=[PIPE])
    assert repr(call) == "Call(NetPipeline, weight=2, height=512, image=<list>, cached_prompt=True)"
    assert repr(Call(prompt="a cat")) == "Call(prompt='a cat')"
    plan = place(nets(), sequence=["encoder", "vae"], excluded=["transformer"])
    with VirtualGPU(GPU) as gpu:
        applied = profiler.apply(plan, gpu.lend(nets()))
        assert repr(applied) == f"<Applied, in effect: {plan!r}>"
        applied.undo()
    assert repr(applied).startswith("<Applied, taken back: <Plan for NetPipeline")


def test_a_verification_shows_itself_in_one_line():
    plan = dataclasses.replace(place(nets(), excluded=["encoder"]), gpu=GPU)
    plan = dataclasses.replace(plan, margin=dataclasses.replace(plan.margin, budget_bytes=4 * GIB))
    told = repr(profiler.verify(nets(), plan))
    assert told.startswith("<Verification, predicted: the plan did not hold, peak ")
    assert "\n" not in told


TABLE = """\
name            class                        dtype      weights     parameters
vae             AutoencoderKL                float16  160.0 MiB     83,886,080
text_encoder    CLIPTextModel                float16  235.0 MiB    123,207,680
text_encoder_2  CLIPTextModelWithProjection  float16   1.29 GiB    694,681,600
unet            UNet2DConditionModel         float16   4.78 GiB  2,567,438,336"""


def test_components_are_a_table_and_a_tuple(tmp_path):
    parts = PROFILE.components
    assert repr(parts) == TABLE
    assert parts == tuple(parts)
    assert hash(parts) == hash(tuple(parts))
    assert (type(parts[0]), type(parts[:2])) == (Component, tuple)
    assert pickle.loads(pickle.dumps(parts)) == parts  # our own
    PROFILE.save(tmp_path / "p.parquet")
    assert repr(Profile.load(tmp_path / "p.parquet").components) == TABLE
    strange = dataclasses.replace(parts[0], class_name="<b>\x1b[31m")
    shown = dataclasses.replace(PROFILE, components=(strange,)).components
    assert r"<b>\x1b[31m" in repr(shown)
    assert "&lt;b&gt;" in shown._repr_html_()
    assert repr(dataclasses.replace(PROFILE, components=()).components) == "()"
    assert isinstance(repr(dataclasses.asdict(PROFILE)["components"]), str)


def test_the_peak_says_how_much_when_and_who():
    peak = PROFILE.peak
    assert peak.peak_bytes == PROFILE.totals.peak_allocated_bytes
    assert (peak.phase, peak.step, peak.component, peak.doing) == ("denoise", 0, "unet", "forward")
    assert repr(peak) == "<Moment: 4.99 GiB allocated, denoise step 1, unet forward, event 13>"
    assert "peak" in dir(PROFILE)
    assert dataclasses.replace(PROFILE, events=()).peak is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"heights": 64}, "takes no argument 'heights': did you mean height"),
        ({"bogus": 1}, "takes no argument 'bogus': it takes prompt, "),
    ],
)
def test_an_argument_that_the_call_would_ignore_is_refused(tmp_path, arguments, told):
    pipe = profiler.load_pipeline(write_tiny_pipeline(tmp_path))
    with pytest.raises(InputError, match=f"StableDiffusionPipeline {told}"):
        profiler.profile_pipeline(pipe, gpu=GPU, **arguments)
    with pytest.raises(InputError, match="NetPipeline takes no argument 'height': it takes none"):
        profiler.profile_calls(PIPE, Call(height=64), gpu=GPU)
