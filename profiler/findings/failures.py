"""Findings about runs that ended early: the missing memory, its holders, and a workaround."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.checking.code_words import quoted
from profiler.findings import fixes
from profiler.findings.evidence import conditions
from profiler.findings.run_state import expandable_segments, records_stream
from profiler.record import moments
from profiler.record.finding import PROBLEM, Finding
from profiler.record.verdict import ran_out_of_memory
from profiler.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.record.events import Moment
    from profiler.record.profile import Failure, PeakItem, Profile
    from profiler.record.trial import WholeCall

_MOVES = {"onload": "while moving {} to the GPU", "cast": "while casting {}"}
_HOLDERS = 6  # named at most
_ALLOW_ALL = fixes.Fix(
    "torch.cuda.set_per_process_memory_fraction(1.0)  # or leave that call out",
    {"memory_fraction": 1.0},
)


def out_of_memory(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a run ran out of memory: the bytes requested, the bytes left, and the holders of the rest."""
    if not ran_out_of_memory(profile):
        return
    failure = profile.failure
    moment = moments.peak_moment(profile)
    capacity = format_bytes(profile.gpu.capacity_bytes)
    fix = _fix(profile, failure, moment)
    if failure is None:
        worst = (moment.ordinal,) if moment else ()
        names = (moment.component,) if moment and moment.component else ()
    else:
        worst, names = (failure.ordinal,), (failure.component,) if failure.component else ()
    yield Finding(
        kind="out_of_memory",
        severity=PROBLEM,
        title=f"Out of memory on a GPU of {capacity}{_while(failure)}",
        detail=explained(profile, failure) if failure else profile.error,
        fix=fix.line,
        changes=fix.changes,
        bytes=_missing(failure),
        components=names,
        events=worst,
    )


def _while(failure: Failure | None) -> str:
    if failure is None or not (failure.component or failure.doing):
        return ""
    if failure.doing in _MOVES:
        return f" {_MOVES[failure.doing].format(failure.component)}"
    step = f", denoise step {failure.step}" if failure.step >= 0 else ""
    return f" in {failure.component}.{failure.doing}{step}"


def explained(profile: Profile, failure: Failure) -> str:
    """Return the arithmetic of a failure: the bytes requested, the bytes left, and the holders of the rest."""
    lines = []
    if failure.requested_bytes is not None:
        left = (
            "" if failure.free_bytes is None else f" with {format_bytes(failure.free_bytes)} free"
        )
        lines.append(f"{format_bytes(failure.requested_bytes)} were asked for{left}.")
    if failure.holders:
        total = sum(item.bytes for item in failure.holders)
        shown = ", ".join(_holder(item) for item in failure.holders[:_HOLDERS])
        others = sum(item.bytes for item in failure.holders[_HOLDERS:])
        rest = f", others {format_bytes(others)}" if others else ""
        lines.append(f"{format_bytes(total)} were allocated: {shown}{rest}.")
    if failure.unallocated_bytes:
        largest = failure.largest_free_block_bytes
        block = "" if largest is None else f", the largest free block {format_bytes(largest)}"
        lines.append(
            f"{format_bytes(failure.unallocated_bytes)} were reserved and not allocated{block}."
        )
    lines += _causes(profile, failure)
    if failure.whole is not None:
        lines.append(whole_words(failure.whole))
    if failure.remedy:
        lines.append(failure.remedy)
    return " ".join(lines)


def _causes(profile: Profile, failure: Failure) -> Iterator[str]:
    """Yield further causes of the full GPU, besides the memory requested."""
    if _is_not_allowed(failure):
        yield (
            f"torch.cuda.set_per_process_memory_fraction allows {format_bytes(failure.allowed_bytes or 0)} of the "
            f"GPU's {format_bytes(profile.gpu.capacity_bytes)}."
        )
    if not _is_in_pieces(profile, failure):
        return
    if records_stream(profile):
        yield "record_stream holds back what was freed until the copy stream has passed: without it that is used again."
    elif not expandable_segments(profile):
        yield "In one piece that would have been enough: expandable segments leave fewer pieces."
    else:
        yield "In one piece that would have been enough."


def whole_words(whole: WholeCall) -> str:
    """Return a sentence with the memory of the whole call, and the smallest GPU that runs it."""
    taken = f"The whole call as it is takes {format_bytes(whole.device_bytes)}"
    if not whole.gpu:
        return f"{taken}, more than any listed GPU has."
    there = (
        ""
        if whole.gpu_device_bytes == whole.device_bytes
        else f", {format_bytes(whole.gpu_device_bytes)} there"
    )
    return (
        f"{taken}; the smallest listed GPU that runs it is the {whole.gpu} "
        f"({format_bytes(whole.gpu_capacity_bytes)}{there})."
    )


def _holder(item: PeakItem) -> str:
    name = " ".join(part for part in (item.holder, item.what) if part)
    return f"{name} {format_bytes(item.bytes)}"


def _is_in_pieces(profile: Profile, failure: Failure) -> bool:
    """Tell whether the memory reserved and not allocated would have sufficed in one piece.

    A component being moved needs all of its missing bytes, not only its next tensor.
    """
    if failure.requested_bytes is None or failure.unallocated_bytes is None:
        return False
    needed = failure.requested_bytes
    if failure.doing == "onload":
        there = {i.holder: i.bytes for i in failure.holders if i.what == "weights"}
        whole = {part.name: part.allocated_bytes for part in profile.components}
        needed = max(needed, whole.get(failure.component, 0) - there.get(failure.component, 0))
    return failure.unallocated_bytes >= needed


def _is_not_allowed(failure: Failure) -> bool:
    """Tell whether the GPU had room, but not for this process."""
    free, requested = failure.free_bytes or 0, failure.requested_bytes or 0
    return failure.allowed_bytes is not None and free >= requested


def _missing(failure: Failure | None) -> int:
    if failure is None or failure.requested_bytes is None:
        return 0
    free = failure.free_bytes or 0
    if failure.allowed_bytes is not None:
        reserved = (failure.allocated_bytes or 0) + (failure.unallocated_bytes or 0)
        free = min(free, failure.allowed_bytes - reserved)
    return max(failure.requested_bytes - free, 0)


def _fix(profile: Profile, failure: Failure | None, moment: Moment | None) -> fixes.Fix:
    if failure is not None and failure.remedy_code:
        return fixes.Fix(failure.remedy_code, failure.remedy_changes)
    if failure is not None and _is_not_allowed(failure):
        return _ALLOW_ALL
    if failure is not None and _is_in_pieces(profile, failure):
        fix = fixes.in_pieces(profile)
        if fix is not None:
            return fix
    doing, component = (failure.doing, failure.component) if failure else ("", "")
    if failure is None and moment is not None:
        doing, component = moment.doing, moment.component
    return fixes.lower_peak(profile, doing, component)


def ended_early(profile: Profile) -> Iterator[Finding]:
    """Yield a finding if a run ended early for another reason than memory, with a workaround."""
    if profile.complete or ran_out_of_memory(profile):
        return
    component, events = _where(profile)
    yield Finding(
        kind="incomplete",
        severity=PROBLEM,
        title="The run ended early",
        detail=profile.error,
        fix=_way_around(profile, component),
        changes={},
        bytes=0,
        components=(component,) if component else (),
        events=events,
    )


def left_cast(profile: Profile) -> Iterator[Finding]:
    """Yield a finding for each component that a failed call had cast and not cast back: the next call fails on it.

    SDXL casts its VAE to single precision for the decode and back after it. It takes a VAE in single precision for one
    that need not be cast, and leaves the latents in half precision (diffusers 0.42.1).
    """
    if profile.complete or profile.failure is None:
        return
    dtypes = {part.name: part.dtype for part in profile.components}
    last = {event.component: event for event in profile.events if event.kind == "cast"}
    for name, event in last.items():
        half_way = (profile.failure.doing, profile.failure.component) == ("cast", name)
        if event.call < 0 or name not in dtypes or not (half_way or event.dtype != dtypes[name]):
            continue
        yield Finding(
            kind="left_cast",
            severity=PROBLEM,
            title=f"{name} was left as it was cast",
            detail=f"The call failed before {name} was cast back to {dtypes[name]}; the next one would fail on it.",
            fix=f"pipe.{name}.to(torch.{dtypes[name]})",
            changes={},
            bytes=0,
            components=(name,),
            events=(event.ordinal,),
        )


def _where(profile: Profile) -> tuple[str, tuple[int, ...]]:
    if profile.failure is not None:
        return profile.failure.component, (profile.failure.ordinal,)
    left = next((event for event in reversed(profile.events) if event.kind == "exit"), None)
    return ("", ()) if left is None else (left.component, (left.ordinal,))


def _way_around(profile: Profile, component: str) -> str:
    """Return the advice that keeps a component out of the offload or the casting under which it failed.

    diffusers 0.42.1: pinned copies do not follow a cast of the VAE, and hooks on `forward` do not fire for the `decode`
    of a VAE that names no blocks. A pipeline that takes the dtype of embeddings from its text encoder makes them in
    float8 if the text encoder stores its weights in float8.
    """
    for one in conditions(profile, "layerwise_casting"):
        named = one.detail.lower() in profile.error.lower() and not component
        if one.component == component or (named and one.component not in profile.denoisers):
            return f"load {one.component} again without layerwise casting, which cannot be undone"
    if profile.mode.startswith("group") and component and component not in profile.denoisers:
        return f"pipe.enable_group_offload(..., exclude_modules=[{quoted(component)}])"
    return "repair the cause and profile again"
