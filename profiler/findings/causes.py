"""Findings about causes of a heavy run: a dtype without hardware support, kept gradients, a changed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.checking.plain_text import one_line
from profiler.findings import fixes
from profiler.findings.evidence import conditions
from profiler.findings.run_state import lacks_bfloat16
from profiler.record import readings as reading
from profiler.record.finding import EVIDENCE, HINT, WASTE, Finding, listed
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.events import Event
    from profiler.record.profile import Profile


def bfloat16_without_hardware(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if components computed in bfloat16 on a GPU that has no hardware for it."""
    slower = profile.complete and fixes.is_slower(profile, fixes.FLOAT16.changes)
    if not lacks_bfloat16(profile) or slower:
        return
    trial = fixes.trial_of(profile, fixes.FLOAT16.changes)
    saved = fixes.seconds_of_call(profile) - trial.seconds if trial and trial.fits else 0.0
    names = tuple(part.name for part in profile.components if part.dtype == "bfloat16")
    yield Finding(
        kind="bfloat16_without_hardware",
        severity=WASTE,
        title=f"{listed(names)} ran in bfloat16, for which {profile.gpu.architecture} has no hardware; "
        "for float16 it has",
        detail="Below sm_80 products in bfloat16 are made without tensor cores, and attention by the math kernel, "
        "which writes the whole matrix of scores: that takes many times the seconds and the memory of float16. "
        "A model that overflows in float16 is better in float32 than in bfloat16 here.",
        fix=fixes.FLOAT16.line,
        changes=fixes.FLOAT16.changes,
        bytes=0,
        seconds=max(saved, 0.0) if profile.complete else 0.0,
        components=names,
    )


def gradients_kept(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if components ran with gradients enabled, so that the graph kept their activations."""
    names = tuple(one.component for one in conditions(profile, "gradients"))
    if not names:
        return
    left = [(event, count) for event, count in _left_by(profile) if event.component in names]
    worst = sorted(left, key=lambda one: -one[1])[:EVIDENCE]
    workspace = sum(item.bytes for item in profile.bill if item.what == "workspace")
    kept = max(sum(count for _, count in left) - workspace, 0)
    yield Finding(
        kind="gradients_kept",
        severity=WASTE,
        title=f"{listed(names)} ran with gradients on"
        + (f" and left {format_bytes(kept)} of activations at least" if kept else ""),
        detail="Weights that require gradients let autograd keep each layer's activations until its result is "
        "dropped. A pipeline's own call switches gradients off; calls of its components do not.",
        fix=fixes.NO_GRADIENTS.line,
        changes=fixes.NO_GRADIENTS.changes,
        bytes=kept,
        components=names,
        events=tuple(sorted(event.ordinal for event, _ in worst)),
    )


def _left_by(profile: Profile) -> Iterator[tuple[Event, int]]:
    """Yield each exit of a component with the bytes besides weights that were allocated since its entry."""
    entered: dict[str, int] = {}
    weights = sum(reading.initial_resident_bytes(profile).values())
    resident = reading.initial_resident_bytes(profile)
    for event in profile.events:
        if event.component in resident:
            weights += event.resident_bytes - resident[event.component]
            resident[event.component] = event.resident_bytes
        if event.kind == "enter":
            entered[event.component] = event.after_bytes - weights
        elif event.kind == "exit" and event.component in entered:
            left = event.before_bytes - weights - entered.pop(event.component)
            if left > 0:
                yield event, left


def size_binned(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if the pipeline ran another size than requested."""
    for one in conditions(profile, "binned_size"):
        asked, _, run = one_line(one.detail).partition(" -> ")
        yield Finding(
            kind="size_binned",
            severity=HINT,
            title=f"{asked} was asked for and {run} was run",
            detail="The pipeline runs the nearest of the sizes that it was trained on, and resizes the picture: memory "
            f"and seconds are those of {run}.",
            fix=f"pipe(..., use_resolution_binning=False)  # runs {asked}",
            changes={"binning": False},
            bytes=0,
        )


def size_not_as_asked(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for each picture of another size than requested."""
    for one in conditions(profile, "made_size"):
        asked, _, made = one_line(one.detail).partition(" -> ")
        sides = dict(zip(("height", "width"), asked.split(" x "), strict=False))
        given = {name: side for name, side in sides.items() if side != "-"}
        half = len(given) == 1
        both = dict(zip(("height", "width"), made.split(" x "), strict=False)) | (
            given if half else {}
        )
        yield Finding(
            kind="size_not_as_asked",
            severity=HINT,
            title=f"{' x '.join(f'{name} {side}' for name, side in given.items()) if half else asked} was asked for "
            f"and {made} was made",
            detail="The pipeline takes a height only together with a width, and its default size otherwise."
            if half
            else "The pipeline rounds a size to one that its model can make: memory and seconds are those of "
            f"{made}.",
            fix=f"pipe(..., {', '.join(f'{name}={side}' for name, side in both.items())})",
            changes={"size": "asked"} if half else {},
            bytes=0,
        )
