"""Findings say only what the recording proves, with events, bytes and a line that fixes it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from profile_worlds import GPU, SDXL, Story, component, sdxl_model_offload

import profiler.findings
from profiler.findings import Finding, findings
from profiler.findings.staying import peak_while_used, peak_with
from profiler.record.components import RepeatedLayer
from profiler.record.profile import Condition, Profile
from profiler.units import GIB, MIB

SMALL = dataclasses.replace(GPU, name="Small", capacity_bytes=5 * GIB)
HUGE = dataclasses.replace(GPU, name="Huge", capacity_bytes=80 * GIB)


def kinds(profile: Profile) -> list[str]:
    return [finding.kind for finding in findings(profile)]


def only(profile: Profile, kind: str) -> Finding:
    (found,) = [finding for finding in findings(profile) if finding.kind == kind]
    return found


def test_what_does_not_fit_says_by_how_much_and_where() -> None:
    """300 MiB context + 5173 MiB reserved + 153.3 MiB band - 5120 MiB = 506.3 MiB."""
    profile = sdxl_model_offload(steps=1, spec=SMALL)
    found = only(profile, "does_not_fit")
    assert found.title == "Does not fit 5.00 GiB: 506.3 MiB too much"
    assert found.bytes == (300 + 5173 - 5120) * MIB + 160_715_244
    assert found.components == ("unet",)
    assert profile.events[found.events[0]].kind == "exit"


def test_a_full_decode_is_told_to_tile() -> None:
    story = Story((component("vae", 100 * MIB),), spec=SMALL)
    story.begin()
    story.phase = "decode"
    story.enter("vae", entry="decode")
    story.onload("vae")
    story.compute("vae", 6 * GIB, entry="decode")
    assert only(story.profile(), "does_not_fit").fix == "pipe.vae.enable_tiling()"


def test_an_out_of_memory_run_keeps_its_words() -> None:
    words = "CUDA out of memory. Tried to allocate 2.00 GiB."
    profile = dataclasses.replace(sdxl_model_offload(steps=1), complete=False, error=words)
    assert only(profile, "out_of_memory").detail == words
    assert kinds(profile) == ["out_of_memory"]


def test_a_component_that_fails_under_group_offload_is_to_be_left_out_of_it() -> None:
    story = Story((component("vae", 100 * MIB),))
    story.begin()
    story.enter("vae", entry="decode")
    story.compute("vae", GIB, entry="decode")
    words = "RuntimeError in vae: Input type (float) and bias type (c10::Half) should be the same"
    failed = dataclasses.replace(story.profile(), mode="group-leaf", complete=False, error=words)
    found = only(failed, "incomplete")
    assert (found.detail, found.components) == (words, ("vae",))
    assert found.fix == 'pipe.enable_group_offload(..., exclude_modules=["vae"])'


def test_everything_fits_a_huge_gpu() -> None:
    """All weights are 160 + 235 + 1325 + 4897 = 6617 MiB; with 4200 MiB of decoding, 10817 MiB."""
    profile = sdxl_model_offload(steps=2, spec=HUGE)
    assert peak_with(profile, [part.name for part in SDXL]) == 10817 * MIB
    assert kinds(profile) == ["everything_fits"]
    assert only(profile, "everything_fits").fix == 'pipe.to("cuda")'


def test_the_component_that_travels_most_and_fits_could_stay() -> None:
    """With `text_encoder_2` always there the peak is 1325 + 4897 + 212 MiB; `unet` would need 4897 + 4360."""
    profile = sdxl_model_offload(steps=2)
    found = only(profile, "keep_resident")
    assert (found.components, found.bytes) == (("text_encoder_2",), 1325 * MIB)
    assert peak_with(profile, ["text_encoder_2"]) == (1325 + 4897 + 212) * MIB
    assert found.fix == f"profiler.plan_offload(profile, {8 * GIB}).apply(pipe)"


def streamed(story: Story, name: str, activations: int) -> None:
    """Two halves of a component of 20 MiB come and go, with activations beside each."""
    story.enter(name)
    for _ in range(2):
        story.resident[name] = 10 * MIB
        where = {"from_device": "cpu", "to_device": "cuda:0", "bytes": 10 * MIB}
        story.add("onload", name, after=10 * MIB, seconds=0.25, **where)
        story.lead_peak_bytes = 10 * MIB + activations
        story.resident[name] = 0
        where = {"from_device": "cuda:0", "to_device": "meta", "bytes": 10 * MIB}
        story.add("offload", name, after=0, **where)
    story.compute(name, 0)


def two_streamed() -> Profile:
    """Three runs of `net`, which needs 5 MiB besides, and one of `other`, which needs 12."""
    blocks = tuple(RepeatedLayer(name=f"blocks.{i}", bytes=5 * MIB) for i in range(4))
    net = dataclasses.replace(component("net", 20 * MIB), blocks=blocks)
    story = Story((net, component("other", 20 * MIB)))
    story.begin()
    story.phase = "denoise"
    for story.step in range(3):
        streamed(story, "net", 5 * MIB)
    streamed(story, "other", 12 * MIB)
    return story.profile(mode="sequential")


def on_gpu_of(profile: Profile, usable: int) -> Profile:
    """Return the profile on a GPU that leaves `usable` bytes after 300 MiB of context and 200 of slack."""
    spec = dataclasses.replace(GPU, capacity_bytes=500 * MIB + usable)
    return dataclasses.replace(profile, gpu=spec)


def test_streaming_is_told_when_whole_components_would_fit() -> None:
    """While it is used `other` needs 20 + 12 MiB; beside `net`, or beside it, one that always stays needs more.

    Of 80 MiB of uploads in 2 seconds model offload makes 40.
    """
    (found,) = findings(on_gpu_of(two_streamed(), 34 * MIB))

    assert peak_while_used(two_streamed()) == 32 * MIB
    assert peak_with(two_streamed(), ["net"]) == 42 * MIB
    assert peak_with(two_streamed(), ["other"]) == 35 * MIB
    assert found.title.endswith("model offload saves 40.0 MiB of uploads")
    assert (found.bytes, found.seconds) == (40 * MIB, 1.0)
    assert found.fix == "pipe.enable_model_cpu_offload()"


def test_a_component_that_fits_is_told_with_what_it_costs_and_saves() -> None:
    """The peak rises from 22 MiB to the 42 of `net` beside the half of `other` and its 12; six uploads took 1.5 s."""
    (found,) = findings(on_gpu_of(two_streamed(), 43 * MIB))

    assert found.title == "net fits: keep it (+20.0 MiB, -1.5 s) and save 60.0 MiB of uploads"
    assert (found.bytes, found.seconds, found.more_bytes) == (60 * MIB, 1.5, 20 * MIB)
    assert found.fix.startswith('pipe._exclude_from_cpu_offload = ["net"]')


def test_a_gpu_that_is_never_full_is_told_with_the_blocks_that_it_could_keep() -> None:
    """Of 31 MiB 22 are used: one block of 5 MiB fits beside, and a quarter of the 1.5 s of uploads is saved."""
    (found,) = findings(on_gpu_of(two_streamed(), 31 * MIB))

    assert found.kind == "unused_vram"
    assert found.title == (
        "9.0 MiB of the GPU are never used: 1 of 4 blocks of net could stay (+5.0 MiB, -375 ms)"
    )
    assert (found.seconds, found.more_bytes) == (0.375, 5 * MIB)
    assert found.fix.startswith("profiler.plan_offload(profiler.profile_pipeline(pipe, gpu=")


def test_no_room_for_a_block_is_no_finding() -> None:
    assert kinds(on_gpu_of(two_streamed(), 26 * MIB)) == []


def excluded(name: str, sequence: tuple[str, ...]) -> Profile:
    """Two calls in which `name` is excluded, and goes to the CPU and back at the end of each."""
    story = Story((component("a", 10 * MIB), component("b", 20 * MIB, device="cuda:0")))
    for call in range(2):
        story.begin(call)
        story.enter("a")
        story.onload("a")
        story.compute("a", MIB)
        story.phase = "decode"
        story.offload("a", asked_by="pipeline.maybe_free_model_hooks")
        story.offload("b", asked_by="pipeline.maybe_free_model_hooks")
        story.onload("b", asked_by="pipeline.enable_model_cpu_offload")
        story.end()
    return story.profile(sequence=sequence, excluded=(name,))


def test_excluded_components_that_travel_are_found_with_their_bytes() -> None:
    found = only(excluded("b", ("a",)), "excluded_travel")
    assert (found.components, found.bytes) == (("b",), 4 * 20 * MIB)
    # twice 20 MiB up at 6 GB/s and down at 5: 15.4 ms
    assert found.evidence == "80.0 MiB, 15 ms; events 6, 8, 16 and 18"


def test_an_exclusion_inside_the_sequence_is_ignored_and_said_so() -> None:
    found = only(excluded("b", ("a", "b")), "exclusion_ignored")
    assert found.components == ("b",)
    assert found.fix.startswith('pipe.model_cpu_offload_seq = "a"')
    assert "excluded_travel" not in kinds(excluded("b", ("a", "b")))


def test_a_call_out_of_order_keeps_two_on_the_gpu() -> None:
    """`vae` is called before `unet`, whose hook evicts `te` only: `vae` stays while `unet` runs."""
    story = Story((component("te", MIB), component("unet", 50 * MIB), component("vae", 10 * MIB)))
    story.begin()
    for name in ("te", "vae", "unet"):
        story.enter(name)
        if name == "unet":
            story.offload("te")
        story.onload(name)
        story.compute(name, MIB)
    found = only(story.profile(sequence=("te", "unet", "vae")), "idle_resident")
    assert found.components == ("te", "vae")
    assert found.bytes == 11 * MIB
    assert "Used: te -> vae -> unet. Sequence: te -> unet -> vae." in found.detail


def test_pinned_memory_far_beyond_the_weights_is_waste() -> None:
    profile = sdxl_model_offload(steps=1)
    totals = dataclasses.replace(profile.totals, host_pinned_bytes=10 * GIB)
    found = only(dataclasses.replace(profile, totals=totals), "pinned_rounding")
    assert found.bytes == 10 * GIB - 6617 * MIB


def test_problems_come_before_hints() -> None:
    profile = sdxl_model_offload(steps=1)
    totals = dataclasses.replace(profile.totals, host_pinned_bytes=10 * GIB)
    assert kinds(dataclasses.replace(profile, totals=totals)) == [
        "pinned_rounding",
        "keep_resident",
    ]


def test_a_resident_run_that_fits_has_nothing_to_say() -> None:
    assert kinds(dataclasses.replace(sdxl_model_offload(steps=1), mode="resident")) == []


def test_a_measured_run_that_reserved_more_than_the_gpu_has_spilled() -> None:
    """Windows lends the system's memory: 5173 MiB reserved on a GPU of 4000."""
    spec = dataclasses.replace(GPU, capacity_bytes=4000 * MIB, virtual=False)
    story = dataclasses.replace(sdxl_model_offload(steps=1), source="measured", gpu=spec)
    found = only(story, "spilled_to_ram")
    assert (found.severity, found.bytes) == ("problem", 1173 * MIB)
    assert "spilled_to_ram" not in kinds(dataclasses.replace(story, source="predicted"))


def test_conditions_alone_are_no_findings() -> None:
    """Foreign hooks that let nothing stay cost nothing."""
    states = tuple(
        Condition(what=what, component="unet", call=0)
        for what in ("foreign_hook", "unlisted_hook", "no_hook")
    )
    profile = dataclasses.replace(sdxl_model_offload(steps=1), mode="model", conditions=states)
    assert kinds(profile) == kinds(sdxl_model_offload(steps=1))


def test_every_finding_is_in_the_documents() -> None:
    """A kind stands in the code as `kind="..."`, or is handed to a function that makes the finding."""
    shape = r'kind="([a-z_]+)"|(?:_at_peak|_idle|_hint)\([^")]*"([a-z_]+)"'
    folder = Path(profiler.findings.__file__).parent
    written = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    kinds = {name for pair in re.findall(shape, written) for name in pair if name}
    assert {"unused_vram", "idle_resident", "tight", "left_on_card"} <= kinds
    page = (Path(__file__).parents[2] / "docs" / "findings.md").read_text(encoding="utf-8")
    assert kinds == kinds & set(re.findall(r"`([a-z_]+)`", page))
