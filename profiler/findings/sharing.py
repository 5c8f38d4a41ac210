"""Findings about things that pipelines and components share unintentionally: hooks, class attributes, files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.checking.code_words import quoted
from profiler.findings import fixes
from profiler.findings.evidence import conditions, ordinals
from profiler.findings.offload import idle, left_behind
from profiler.record import readings as reading
from profiler.record.finding import EVIDENCE, PROBLEM, WASTE, Finding, listed
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.profile import Profile


def foreign_hooks(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a hook that another pipeline set up let a component stay on the GPU."""
    foreign = tuple(one.component for one in conditions(profile, "foreign_hook"))
    idles = idle(profile)
    if not any(one.user in foreign for one in idles):
        return
    yield Finding(
        kind="foreign_hooks",
        severity=WASTE,
        title=f"{listed([one.component for one in idles])} stayed on the GPU: "
        f"{listed(foreign)} carried another pipeline's hooks",
        detail="Pipelines that share components share their hooks: each enable_model_cpu_offload() takes off the "
        "other's, and its hooks evict its own components only.",
        fix="pipe.enable_model_cpu_offload()  # before each call of this pipeline",
        changes={"mode": "model"},
        bytes=sum(one.bytes for one in idles),
        components=tuple(one.component for one in idles),
        events=tuple(one.ordinal for one in idles)[:EVIDENCE],
    )


def left_on_card(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if hooked components were on the GPU after the last call."""
    end = next((event for event in reversed(profile.events) if event.kind == "end"), None)
    if end is None or not profile.complete:
        return
    resident = reading.initial_resident_bytes(profile)
    hooked, freed = set(), set()
    for event in profile.events[: end.ordinal]:
        if event.component in resident:
            resident[event.component] = event.resident_bytes
        if event.kind == "onload" and event.asked_by == "accelerate.CpuOffload":
            hooked.add(event.component)
        elif event.kind == "offload" and event.asked_by == "pipeline.maybe_free_model_hooks":
            freed.add((event.call, event.component))
    reported = left_behind(profile)
    left = {
        name: count
        for name, count in resident.items()
        if count and name in hooked and (end.call, name) not in freed and name not in reported
    }
    if not left:
        return
    unlisted = any(one.component in left for one in conditions(profile, "unlisted_hook"))
    yield Finding(
        kind="left_on_card",
        severity=WASTE,
        title=f"{listed(tuple(left))} stayed on the GPU after the call: {format_bytes(sum(left.values()))}",
        detail="A pipeline made by from_pipe() has components with hooks, but no list of them, so the end of its "
        "call offloads nothing."
        if unlisted
        else "The pipeline did not offload its components at the end of its call.",
        fix="pipe.enable_model_cpu_offload()  # on the new pipeline, too"
        if unlisted
        else "pipe.maybe_free_model_hooks()",
        changes={"mode": "model"},
        bytes=sum(left.values()),
        components=tuple(left),
        events=(end.ordinal,),
    )


def shared_exclusions(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a class's list of exclusions differs from its source: it was changed for all pipelines."""
    changed = conditions(profile, "shared_exclusions")
    if not changed:
        return
    added = [one.component for one in changed]
    parts = [part for part in profile.components if part.name in added]
    yield Finding(
        kind="shared_exclusions",
        severity=WASTE,
        title=f"{listed(added)} was excluded from offload for every {changed[0].detail}, not for one pipeline",
        detail="_exclude_from_cpu_offload is one list on the class: append() changes it for all pipelines that "
        "inherit it.",
        fix=f"pipe._exclude_from_cpu_offload = {added}  # on the pipeline, in place of append()",
        changes={f"{fixes.KEEP}{name}": True for name in added},
        bytes=sum(part.allocated_bytes for part in parts),
        components=tuple(part.name for part in parts),
    )


def shared_files(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if two components keep weights in one file: they load each other's."""
    shared = conditions(profile, "shared_file")
    if not shared:
        return
    later = tuple(dict.fromkeys(one.component for one in shared))
    names = tuple(dict.fromkeys((*later, *(one.detail for one in shared))))
    loads = [e for e in profile.events if e.component in later and e.kind == "onload"]
    yield Finding(
        kind="shared_disk_folder",
        severity=PROBLEM,
        title=f"{listed(names)} keep weights in the same files, and load each other's",
        detail="Group offload names its files by the group alone, and takes a file that is there already for its own.",
        fix=f"pipe.{later[0]}.enable_group_offload(..., offload_to_disk_path={quoted('a-folder/' + later[0])})",
        changes={"mode": profile.mode},
        bytes=sum(part.bytes for part in profile.components if part.name in later),
        components=names,
        events=ordinals(loads),
    )
