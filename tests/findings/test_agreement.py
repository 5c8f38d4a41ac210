"""No two findings of a report exclude each other, and a fix that cannot fit or did not help is not told."""

from __future__ import annotations

import ast
import dataclasses
from itertools import permutations, product
from pathlib import Path

import pytest
from profile_worlds import GPU, Story, component, sdxl_model_offload

import profiler.findings
from profiler.findings import findings, findings_beside_plan, fixes
from profiler.findings.agreement import agreed, excludes
from profiler.findings.floors import floor_bytes
from profiler.record.finding import HINT, PROBLEM, WASTE, Finding
from profiler.record.profile import Condition, Failure, Profile
from profiler.record.settings import ENVIRONMENT, GROUP_OFFLOAD, VAE_TILING, Setting
from profiler.record.trial import Trial
from profiler.units import GIB, MIB

FOLDER = Path(profiler.findings.__file__).parent
STREAM = Setting(
    what=GROUP_OFFLOAD, component="unet", value={"stream": True, "record_stream": True}
)
EXPANDABLE = Setting(what=ENVIRONMENT, value={"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def on(capacity: int, **changes: object) -> Profile:
    spec = dataclasses.replace(GPU, capacity_bytes=capacity)
    return dataclasses.replace(sdxl_model_offload(steps=2, spec=spec), **changes)


def reserving(count: int, **changes: object) -> Profile:
    """Return a run that reserved so much more than it allocated, on a GPU that is too small for that."""
    profile = on(6 * GIB, **changes)
    totals = profile.totals
    reserved = totals.peak_allocated_bytes + count
    return dataclasses.replace(
        profile,
        totals=dataclasses.replace(
            totals, peak_reserved_bytes=reserved, device_bytes=reserved + GPU.context_bytes
        ),
    )


def failed(doing: str = "forward", component_name: str = "unet", **changes: object) -> Profile:
    failure = Failure(
        component=component_name,
        doing=doing,
        phase="denoise",
        step=0,
        ordinal=10,
        out_of_memory=True,
        requested_bytes=GIB,
        free_bytes=0,
        allocated_bytes=5 * GIB,
        unallocated_bytes=0,
    )
    error = "CUDA out of memory"
    return on(8 * GIB, **{"failure": failure, "complete": False, "error": error, **changes})


def worlds() -> list[Profile]:
    """Return runs in which every finder that changes something has its say, several at a time."""
    pinned = dataclasses.replace(sdxl_model_offload(steps=2).totals, host_pinned_bytes=20 * GIB)
    turing = dataclasses.replace(GPU, architecture="sm_75")
    bfloat16 = tuple(
        dataclasses.replace(part, dtype="bfloat16")
        for part in sdxl_model_offload(steps=1).components
    )
    states = (
        Condition(what="foreign_hook", component="unet", call=0),
        Condition(what="shared_exclusions", component="vae", detail="A"),
        Condition(what="shared_file", component="vae", detail="unet"),
        Condition(what="gradients", component="unet"),
        Condition(what="binned_size", detail="512 x 512 -> 1024 x 1024"),
    )
    modes = ("model", "sequential", "group-leaf", "group-block", "resident")
    return [
        *(on(size * GIB, mode=mode) for size, mode in product((5, 8, 80), modes)),
        *(on(80 * GIB, mode=mode, totals=pinned, conditions=states) for mode in modes),
        on(80 * GIB, gpu=turing, components=bfloat16),
        on(8 * GIB, excluded=("unet",)),
        on(8 * GIB, excluded=("vae",), sequence=("text_encoder", "text_encoder_2", "unet")),
        reserving(900 * MIB),
        reserving(900 * MIB, mode="group-leaf", settings=(STREAM,)),
        *(failed(mode=mode, conditions=states) for mode in modes),
        failed("onload"),
        failed("decode", "vae"),
    ]


WORLDS = worlds()


def excluding(found: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [
        (one.kind, other.kind)
        for place, one in enumerate(found)
        for other in found[place + 1 :]
        if excludes(one.changes, other.changes)
    ]


@pytest.mark.parametrize("told", [findings, findings_beside_plan])
def test_no_report_holds_two_findings_that_exclude_each_other(told) -> None:
    assert [pair for profile in WORLDS for pair in excluding(told(profile))] == []


def test_no_pair_of_findings_of_any_two_runs_would() -> None:
    """Whatever finder comes beside whatever other, with whatever gravity."""
    every = {}
    for profile in WORLDS:
        for finding in profiler.findings._found(profile):
            every.setdefault((finding.kind, str(finding.changes)), finding)
    kinds = {kind for kind, _ in every}
    assert len(kinds) >= 14, kinds
    for pair in permutations(every.values(), 2):
        for with_plan in (False, True):
            told = agreed(pair, with_plan=with_plan)
            assert excluding(told) == []
            kept = {one.kind for one in pair if not one.is_advice}
            assert kept <= {one.kind for one in told}


def test_the_gravest_decides_and_the_facts_of_the_others_stay() -> None:
    def finding(kind: str, severity: str, mode: str, **more: bool) -> Finding:
        changes = {"mode": mode}
        return Finding(
            kind=kind,
            severity=severity,
            title=kind,
            detail="",
            fix=mode,
            changes=changes,
            bytes=0,
            **more,
        )

    hint = finding("hint", HINT, "resident", is_advice=True)
    waste = finding("waste", WASTE, "model")
    problem = finding("problem", PROBLEM, "group-leaf")
    told = agreed((hint, waste, problem))
    assert [(one.kind, one.fix) for one in told] == [
        ("problem", "group-leaf"),
        ("waste", "group-leaf"),
    ]
    assert [one.kind for one in agreed((hint,), with_plan=True)] == []
    (beside,) = agreed((problem,), with_plan=True)
    assert beside.fix.startswith("plan.apply(pipe)")


def test_every_finding_says_what_its_fix_changes() -> None:
    made = [
        node
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
    ]
    assert len(made) > 15
    assert all("changes" in {one.arg for one in node.keywords} for node in made)


def resident_that_failed(size: int) -> Profile:
    """Return a resident run that failed while it was placed: a component of `size`, and one of 1 GiB."""
    spec = dataclasses.replace(GPU, capacity_bytes=8 * GIB)
    story = Story((component("te", size), component("unet", GIB)), spec=spec)
    story.phase = "place"
    story.onload("unet", asked_by="pipeline.to")
    failure = Failure(
        component="te", doing="onload", phase="place", step=-1, ordinal=0, out_of_memory=True
    )
    return story.profile(
        mode="resident",
        sequence=("te", "unet"),
        complete=False,
        error="CUDA out of memory",
        failure=failure,
    )


@pytest.mark.parametrize(
    ("size", "fix"),
    [
        (7 * GIB, "pipe.enable_model_cpu_offload()"),
        (10 * GIB, "a smaller height"),  # of one tensor: no placement cuts it
    ],
)
def test_a_mode_that_a_component_is_too_large_for_is_not_told(size: int, fix: str) -> None:
    (found,) = findings(resident_that_failed(size))
    assert found.fix.startswith(fix)


def test_activations_that_no_placement_lowers_are_not_told_to_be_placed_otherwise() -> None:
    """The decode takes 4200 MiB beside 160 of weights: on 4 GiB the VAE must work in tiles, once it does not yet."""
    profile = on(4 * GIB)
    assert floor_bytes(profile, "sequential") > 4200 * MIB
    for settings, line in (
        ((), "pipe.vae.enable_tiling()"),
        ((Setting(what=VAE_TILING, component="vae", value={}),), "a smaller height"),
    ):
        fix = fixes.lower_peak(dataclasses.replace(profile, settings=settings), "decode", "vae")
        assert fix.line.startswith(line)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ((), "reserved_beyond_allocated", "expandable_segments:True"),
        ((EXPANDABLE,), "reserved_beyond_allocated", "enable_group_offload"),
        ((STREAM,), "record_stream_reserves", "without record_stream=True"),
        ((STREAM, EXPANDABLE), "record_stream_reserves", "without record_stream=True"),
    ],
)
def test_what_reserves_is_named_and_nothing_that_is_on_is_told(
    settings: tuple[Setting, ...], kind: str, words: str
) -> None:
    found = {one.kind: one for one in findings(reserving(900 * MIB, settings=settings))}
    assert words in found[kind].fix
    assert not (EXPANDABLE in settings and any("expandable" in one.fix for one in found.values()))
    assert ("reserved_beyond_allocated" in found) == (kind == "reserved_beyond_allocated")


def test_a_fix_that_was_tried_in_vain_makes_way_for_the_next() -> None:
    profile = on(80 * GIB)
    (first,) = findings(profile)
    assert first.changes == {"mode": "resident"}
    slow = Trial(changes={"mode": "resident"}, fits=True, seconds=1000.0)
    (second,) = findings(dataclasses.replace(profile, trials=(slow,)))
    assert second.kind == "keep_resident"
    plan = Trial(changes={"mode": "plan"}, fits=False)
    assert findings(dataclasses.replace(profile, trials=(slow, plan))) == ()


def test_what_came_of_trying_is_told() -> None:
    trial = Trial(changes={"mode": "resident"}, fits=True, device_bytes=11 * GIB, seconds=0.5)
    (found,) = findings(dataclasses.replace(on(80 * GIB), trials=(trial,)))
    assert found.detail.endswith(
        "Tried on the virtual GPU: 11.00 GiB on the GPU and 500 ms a call."
    )


def test_a_run_out_of_memory_in_bfloat16_is_told_float16_where_the_gpu_lacks_it() -> None:
    parts = tuple(
        dataclasses.replace(one, dtype="bfloat16") for one in sdxl_model_offload(steps=1).components
    )
    for architecture, lacks in (
        ("sm_70", True),
        ("sm_75", True),
        ("sm_80", False),
        ("sm_120", False),
    ):
        gpu = dataclasses.replace(GPU, architecture=architecture)
        found = {one.kind: one for one in findings(failed(gpu=gpu, components=parts))}
        assert ("float16: from_pretrained" in found["out_of_memory"].fix) == lacks
        assert ("bfloat16_without_hardware" in found) == lacks
