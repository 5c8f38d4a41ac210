"""Each trap of stock diffusers and accelerate, walked into by real pipelines and hooks, and the finding that tells it.

The events and bytes of a finding are compared with what the script of the trap must have moved.
"""

import dataclasses
from pathlib import Path

import accelerate
import diffusers
import pytest
import replay_worlds
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.hooks import apply_layerwise_casting
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny_flux import write_tiny_flux
from tiny_pipelines import Act, Script, build, pipeline_class

from profiler.libraries.modes import Mode
from profiler.pipelines import load_pipeline
from profiler.pipelines.quiet import quiet
from profiler.planning import plan_offload
from profiler.tracing import profile_pipeline, trace
from profiler.units import MIB
from profiler.virtual import VirtualGPU

# a 2 000 024, b 4 000 024 and c 1 000 024 bytes: half precision, and three positions of 8 bytes
SIZES = {"a": (1_000_000,), "b": (2_000_000,), "c": (500_000,)}
BYTES = {"a": 2_000_024, "b": 4_000_024, "c": 1_000_024}
ALLOCATED = {"a": 2_000_896, "b": 4_000_768, "c": 1_000_960}
IN_ORDER = Script(SIZES, tuple(Act("run", name, scratch=5000, kept=100) for name in "abc"))
HINTS = {"everything_fits", "keep_resident", "model_offload_fits", "unused_vram"}


@pytest.fixture(autouse=True)
def _gpu():
    with VirtualGPU("rtx-4090"), quiet():
        yield


def order(names):
    """Return a script that runs these components, one after the other."""
    return Script(SIZES, tuple(Act("run", name, scratch=5000, kept=100) for name in names))


def traced(pipe, *, calls=1, before=lambda: None):
    """Return the profile of placing and calling a pipe."""
    with trace(pipe) as tracing:
        before()
        for _ in range(calls):
            pipe()
    return tracing.profile


def family(name):
    """Return a tiny real pipeline in half precision, and the arguments of its call."""
    pipe, call = replay_worlds.FAMILIES[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    pipe.set_progress_bar_config(disable=True)
    return pipe, {"num_inference_steps": 2, **call}


def told(profile):
    """Return the findings about traps, by kind: each once, with a reason and a fix."""
    found = [finding for finding in profile.findings if finding.kind not in HINTS]
    by_kind = {finding.kind: finding for finding in found}
    assert len(by_kind) == len(found)
    assert all(finding.fix and finding.title and finding.detail for finding in found)
    return by_kind


def only(profile, kind):
    """Return the finding, which must be the only one about a trap."""
    found = told(profile)
    assert list(found) == [kind]
    return found[kind]


def kinds_of(profile, finding):
    return [
        (profile.events[n].kind, profile.events[n].component, profile.events[n].asked_by)
        for n in finding.events
    ]


def test_an_exclusion_of_a_component_in_the_sequence_is_ignored():
    pipe = build(IN_ORDER)
    pipe._exclude_from_cpu_offload = ["b"]
    profile = traced(pipe, before=pipe.enable_model_cpu_offload)
    found = only(profile, "exclusion_ignored")
    assert (found.components, found.bytes) == (("b",), 2 * BYTES["b"])
    assert [kind for kind, *_ in kinds_of(profile, found)] == ["onload", "offload"]
    assert found.seconds == pytest.approx(
        sum(profile.events[n].exposed_transfer_seconds for n in found.events)
    )
    assert found.fix.startswith('pipe.model_cpu_offload_seq = "a->c->d"')


def test_following_that_fix_makes_the_exclusion_hold_and_travel_at_the_end_of_the_call():
    pipe = build(order("bac"))
    pipe._exclude_from_cpu_offload = ["b"]
    pipe.model_cpu_offload_seq = "a->c"
    profile = traced(pipe, before=pipe.enable_model_cpu_offload)
    found = only(profile, "excluded_travel")
    assert (found.components, found.bytes) == (("b",), 2 * BYTES["b"])
    end = "pipeline.maybe_free_model_hooks"
    assert kinds_of(profile, found) == [("offload", "b", end), ("onload", "b", end)]


def test_image_to_image_keeps_the_vae_beside_the_unet():
    text_to_image, call = family("sd15")
    pipe = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    del call["height"], call["width"]
    call |= {"image": torch.zeros(1, 3, 64, 64), "strength": 1.0}
    profile = profile_pipeline(pipe, mode="model", **call)
    found = only(profile, "idle_resident")
    vae = next(part for part in profile.components if part.name == "vae")
    assert (found.components, found.bytes) == (("vae",), vae.allocated_bytes)
    assert "Used: vae -> unet -> vae." in found.detail
    assert found.severity == "hint"
    full = dataclasses.replace(profile.gpu, capacity_bytes=profile.totals.device_bytes - 1)
    assert told(dataclasses.replace(profile, gpu=full))["idle_resident"].severity == "waste"
    assert (profile.events[found.events[0]].kind, profile.events[found.events[0]].component) == (
        "exit",
        "unet",
    )


def test_a_controlnet_stays_beside_the_decoder_and_not_beside_the_unet_it_works_with():
    pipe, call = family("controlnet")
    profile = profile_pipeline(pipe, mode="model", **{**call, "output_type": "pil"})
    found = only(profile, "outside_sequence")
    assert found.components == ("controlnet",)
    assert profile.events[found.events[0]].entry == "decode"


def test_pipelines_that_share_components_share_hooks():
    """`b` is the first pipeline's own: the hook of `c`, set up by the second, evicts the second's `b`."""
    one = build(IN_ORDER)
    one.enable_model_cpu_offload()
    other = pipeline_class(SIZES)(a=one.a, b=build(IN_ORDER).b, c=one.c)
    other.script = IN_ORDER
    other.enable_model_cpu_offload()
    profile = traced(one)
    found = only(profile, "foreign_hooks")
    assert (found.components, found.bytes) == (("b",), ALLOCATED["b"])
    assert "a and c carried another pipeline's hooks" in found.title
    # as the fix says
    assert told(traced(one, before=one.enable_model_cpu_offload)) == {}


def test_a_pipe_that_was_on_the_gpu_when_offload_was_enabled():
    pipe = build(IN_ORDER)

    def place():
        pipe.to("cuda")
        pipe.enable_model_cpu_offload()

    profile = traced(pipe, before=place)
    found = only(profile, "on_card_before_offload")
    assert found.bytes == 2 * sum(BYTES.values())
    assert found.events == (0, 1, 2, 3, 4, 5)
    # The trace sees the way back only, if it begins later.
    pipe = build(IN_ORDER).to("cuda")
    later = traced(pipe, before=pipe.enable_model_cpu_offload)
    assert only(later, "on_card_before_offload").bytes == sum(BYTES.values())


def test_a_pipe_that_is_sent_to_the_gpu_after_offload_was_enabled():
    pipe = build(IN_ORDER)

    def place():
        pipe.enable_model_cpu_offload()
        pipe.to("cuda")

    found = only(traced(pipe, before=place), "moved_after_offload")
    assert (found.components, found.bytes) == (("a", "b", "c"), sum(BYTES.values()))


def test_loading_a_lora_turns_a_resident_pipe_with_a_mapped_component_into_a_sequential_one():
    donor, _ = family("sd15")
    donor.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    lora = {f"unet.{key}": one for key, one in get_peft_model_state_dict(donor.unet).items()}
    pipe, call = family("sd15")
    pipe.to("cuda")
    accelerate.dispatch_model(pipe.vae, {"": "cuda:0"}, force_hooks=True)
    with trace(pipe) as tracing:
        pipe(**call)
        pipe.load_lora_weights(lora)
        pipe(**call)
    profile = tracing.profile
    assert profile.mode == "sequential"
    found = only(profile, "mode_changed")
    uploads = [e for e in profile.events if e.call == 1 and e.kind == "onload"]
    assert found.bytes == sum(event.bytes for event in uploads) > 0
    assert found.seconds > 0
    assert found.fix == 'pipe.to("cuda")  # again, after loading'


def grouped(pipe, **options):
    device = torch.device("cuda")
    return lambda: pipe.enable_group_offload(
        onload_device=device, offload_type="leaf_level", **options
    )


def test_group_offload_to_one_folder_loads_another_component_s_weights(tmp_path):
    pipe = build(order("ab"))
    folder = str(tmp_path / "weights")
    profile = traced(pipe, before=grouped(pipe, offload_to_disk_path=folder))
    found = told(profile)["shared_disk_folder"]
    assert found.severity == "problem"
    assert (found.components, found.bytes) == (("b", "c", "a"), BYTES["b"] + BYTES["c"])
    b = [
        event.bytes for event in profile.events if (event.kind, event.component) == ("onload", "b")
    ]
    assert b == [BYTES["a"]]  # not its own


def test_a_folder_for_each_component_is_no_finding(tmp_path):
    pipe = build(IN_ORDER)

    def place():
        for name in SIZES:
            diffusers.hooks.apply_group_offloading(
                getattr(pipe, name),
                onload_device=torch.device("cuda"),
                offload_type="leaf_level",
                offload_to_disk_path=str(tmp_path / name),
            )

    assert told(traced(pipe, before=place)) == {}


def test_pinned_weights_are_rounded_up_to_powers_of_two():
    """2 000 000 bytes take 2 MiB, 4 000 000 take 4, 1 000 000 one; a half tensor of 1.1 million takes 2 MiB as well."""
    script = Script({"a": (550_000,), "b": (600_000,)}, order("ab").acts)
    pipe = build(script)
    profile = traced(pipe, before=grouped(pipe, use_stream=True))
    found = only(profile, "pinned_rounding")
    # Two weights of 1.1 and 1.2 million bytes, and two times three positions of 8 bytes, which take 32
    assert found.bytes == 2 * (2 * MIB + 32) - (1_100_024 + 1_200_024)


def test_layerwise_casting_of_a_text_encoder_fails_and_is_named(tmp_path):
    pipe = load_pipeline(str(write_tiny_flux(tmp_path)), dtype="bfloat16")
    apply_layerwise_casting(
        pipe.text_encoder_2, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
    )
    tracing = trace(pipe)
    with pytest.raises(Exception, match="Float8"), tracing:
        pipe("a cat", num_inference_steps=1, height=64, width=64)
    found = only(tracing.profile, "incomplete")
    assert found.fix.startswith("load text_encoder_2 again without layerwise casting")


def test_eight_bit_weights_stay_on_the_gpu_when_they_are_sent_away(tmp_path):
    pytest.importorskip("bitsandbytes", reason="the library that quantises is not installed")
    write_tiny_flux(tmp_path)
    pipe = load_pipeline(
        str(tmp_path), dtype="bfloat16", quantization={"text_encoder_2": "bnb-int8"}
    )
    profile = profile_pipeline(pipe, mode="model", num_inference_steps=1, height=64, width=64)
    found = only(profile, "quantised_stays")
    assert found.components == ("text_encoder_2",)
    last = [e for e in profile.events if e.component == "text_encoder_2" and e.kind == "offload"][
        -1
    ]
    assert found.bytes == last.resident_bytes > 0


def test_reserved_memory_that_was_never_allocated_at_once_is_what_does_not_fit():
    """Blocks of 30, 40 and 50 MiB, one after the other, each too large for the segment of the one before."""
    acts = tuple(Act("run", "a", scratch=size * MIB) for size in (30, 40, 50))
    profile = profile_pipeline(build(Script({"a": (1000,)}, acts)), mode="resident")
    unused = profile.totals.peak_reserved_bytes - profile.totals.peak_allocated_bytes
    assert unused > 60 * MIB
    smaller = profile.gpu.context_bytes + profile.totals.peak_reserved_bytes - 40 * MIB
    gpu = dataclasses.replace(profile.gpu, capacity_bytes=smaller)
    found = told(dataclasses.replace(profile, gpu=gpu))
    assert list(found) == ["does_not_fit", "reserved_beyond_allocated"]
    assert found["reserved_beyond_allocated"].bytes == unused


def test_an_exclusion_appended_to_a_class_is_told_to_every_pipeline():
    pipe = build(IN_ORDER)
    shared = diffusers.DiffusionPipeline._exclude_from_cpu_offload
    assert pipe._exclude_from_cpu_offload is shared
    shared.append("c")
    try:
        profile = traced(pipe, before=pipe.enable_model_cpu_offload)
    finally:
        shared.remove("c")
    found = told(profile)
    assert list(found) == ["shared_exclusions", "exclusion_ignored"]
    one = found["shared_exclusions"]
    assert (one.components, one.bytes) == (("c",), ALLOCATED["c"])
    assert "every DiffusionPipeline" in one.title


def test_a_list_of_a_pipeline_s_own_is_no_finding():
    pipe = build(IN_ORDER)
    pipe._exclude_from_cpu_offload = ["z"]
    assert told(traced(pipe, before=pipe.enable_model_cpu_offload)) == {}


def test_a_pipe_made_from_another_offloads_nothing_at_the_end_of_its_call():
    first = build(IN_ORDER)
    first.enable_model_cpu_offload()
    pipe = type(first).from_pipe(first, dtype=torch.float16)
    pipe.script = IN_ORDER
    profile = traced(pipe)
    assert profile.mode == "model"
    found = only(profile, "left_on_card")
    assert (found.components, found.bytes) == (("c",), ALLOCATED["c"])
    assert "from_pipe()" in found.detail
    first.maybe_free_model_hooks()
    assert told(traced(pipe, before=pipe.enable_model_cpu_offload)) == {}


CLEAN = [
    *((name, mode) for name in ("sd15", "sdxl", "flux", "wan") for mode in ("resident", "model")),
    ("sd15", "sequential"),
    ("qwen_image", "sequential"),
    ("flux", "group-leaf"),
    ("sd15", "group-block"),
]


@pytest.mark.parametrize(("name", "mode"), CLEAN, ids="-".join)
def test_a_clean_run_has_nothing_but_hints_and_a_resident_one_nothing_at_all(name, mode):
    pipe, call = family(name)
    options = {"blocks": 1} if mode == "group-block" else {}
    profile = profile_pipeline(pipe, mode=Mode(name=mode, **options), **call)
    assert profile.complete
    assert told(profile) == {}
    assert [finding.kind for finding in profile.findings] == (
        [] if mode == "resident" else ["everything_fits"]
    )


def test_a_gpu_that_a_clean_run_fills_has_nothing_to_say():
    """What is left of the GPU is less than the smallest component that travels."""
    pipe = build(IN_ORDER)
    profile = traced(pipe, calls=2, before=pipe.enable_model_cpu_offload)
    needed = profile.gpu.context_bytes + profile.totals.peak_reserved_bytes
    band = profile.error_band * profile.totals.peak_allocated_bytes
    gpu = dataclasses.replace(profile.gpu, capacity_bytes=int(needed + band) + 1)
    assert dataclasses.replace(profile, gpu=gpu).findings == ()


@pytest.mark.parametrize("spare", [0, 1_500_000, 4_500_000])
@pytest.mark.parametrize("sticky", [True, False])
def test_a_plan_in_effect_falls_into_no_trap(spare, sticky):
    """What a plan leaves on the GPU beside others fits there: that is no waste."""
    profile = profile_pipeline(build(order("abcab")), mode="model")
    least = plan_offload(profile, profile.gpu.capacity_bytes).smallest_budget_bytes
    plan = plan_offload(profile, least + spare, sticky=sticky)
    pipe = build(order("abcab"))
    run = traced(pipe, calls=2, before=lambda: plan.apply(pipe))
    assert {finding.severity for finding in run.findings} <= {"hint"}
    assert set(told(run)) <= {"idle_resident", "outside_sequence"}


def test_findings_come_through_the_file(tmp_path: Path):
    pipe = build(IN_ORDER)
    pipe._exclude_from_cpu_offload = ["b"]
    profile = traced(pipe, before=pipe.enable_model_cpu_offload)
    profile.save(tmp_path / "a.parquet")
    assert type(profile).load(tmp_path / "a.parquet").findings == profile.findings != ()
