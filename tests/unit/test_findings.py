"""Findings say only what the recording proves, with events, bytes and a line that fixes it."""

from __future__ import annotations

import dataclasses

from profile_worlds import CARD, SDXL, Story, component, sdxl_model_offload

from profiler.findings import Finding, findings
from profiler.findings.staying import peak_while_used, peak_with
from profiler.profile import Profile
from profiler.units import GIB, MIB

SMALL = dataclasses.replace(CARD, name="Small", capacity_bytes=5 * GIB)
HUGE = dataclasses.replace(CARD, name="Huge", capacity_bytes=80 * GIB)


def kinds(profile: Profile) -> list[str]:
    return [finding.kind for finding in findings(profile)]


def only(profile: Profile, kind: str) -> Finding:
    (found,) = [finding for finding in findings(profile) if finding.kind == kind]
    return found


def test_what_does_not_fit_says_by_how_much_and_where() -> None:
    """300 MiB context + 5173 MiB reserved + 153.3 MiB band - 5120 MiB = 506.3 MiB."""
    profile = sdxl_model_offload(steps=1, card=SMALL)
    found = only(profile, "does_not_fit")
    assert found.title == "Does not fit 5.00 GiB: 506.3 MiB too much"
    assert found.bytes == (300 + 5173 - 5120) * MIB + 160_715_244
    assert found.components == ("unet",)
    assert profile.events[found.events[0]].kind == "exit"


def test_a_full_decode_is_told_to_tile() -> None:
    story = Story((component("vae", 100 * MIB),), card=SMALL)
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


def test_everything_fits_a_huge_card() -> None:
    """All weights are 160 + 235 + 1325 + 4897 = 6617 MiB; with 4200 MiB of decoding, 10817 MiB."""
    profile = sdxl_model_offload(steps=2, card=HUGE)
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


def test_streaming_is_told_when_whole_components_would_fit() -> None:
    """Two layers of 10 MiB come and go in each of 3 steps: 60 MiB of uploads, where one upload of all is 35 MiB."""
    story = Story((component("net", 20 * MIB), component("other", 15 * MIB)))
    story.begin()
    story.phase = "denoise"
    for story.step in range(3):
        story.enter("net")
        for _ in range(2):
            story.resident["net"] = 10 * MIB
            where = {"from_device": "cpu", "to_device": "cuda:0", "bytes": 10 * MIB}
            story.add("onload", "net", after=10 * MIB, **where)
            story.lead_peak_bytes = 15 * MIB
            story.resident["net"] = 0
            where = {"from_device": "cuda:0", "to_device": "meta", "bytes": 10 * MIB}
            story.add("offload", "net", after=0, **where)
        story.compute("net", 0)
    profile = story.profile(mode="sequential")
    # 532 MiB less 300 of context and 200 of slack leave 32: 15 + 10 absent MiB fit, and 15 more do not
    card = dataclasses.replace(CARD, capacity_bytes=532 * MIB)

    (found,) = findings(dataclasses.replace(profile, gpu=card))

    assert peak_while_used(profile) == 25 * MIB
    assert found.title.endswith("model offload saves 25.0 MiB of uploads")
    assert found.fix == "pipe.enable_model_cpu_offload()"


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
    assert found.evidence == "events 6, 8, 16 and 18"


def test_an_exclusion_inside_the_sequence_is_ignored_and_said_so() -> None:
    found = only(excluded("b", ("a", "b")), "exclusion_ignored")
    assert found.components == ("b",)
    assert found.fix.startswith('pipe.model_cpu_offload_seq = "a"')
    assert "excluded_travel" not in kinds(excluded("b", ("a", "b")))


def test_a_call_out_of_order_keeps_two_on_the_card() -> None:
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
