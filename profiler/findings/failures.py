"""Findings about runs that ended early: what was missing, who held what, and a way around."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler import record_moments as moments
from profiler.findings.finding import PROBLEM, Finding, conditions
from profiler.units import format_bytes
from profiler.verdict import ran_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiler.profile import BillItem, Failure, Profile

_EXPANDABLE = (
    "PYTORCH_ALLOC_CONF=expandable_segments:True  # in the environment, before torch starts"
)
_MOVES = {"onload": "while moving {} to the card", "cast": "while casting {}"}
_HOLDERS = 6  # named at most


def out_of_memory(profile: Profile) -> Iterator[Finding]:
    """Yield why a run ran out of memory: what it asked for, what was left, who held the rest."""
    if not ran_out_of_memory(profile):
        return
    failure = profile.failure
    moment = moments.peak_moment(profile)
    capacity = format_bytes(profile.gpu.capacity_bytes)
    if failure is None:
        worst = (moment.ordinal,) if moment else ()
        names = (moment.component,) if moment and moment.component else ()
    else:
        worst, names = (failure.ordinal,), (failure.component,) if failure.component else ()
    yield Finding(
        kind="out_of_memory",
        severity=PROBLEM,
        title=f"Out of memory on a card of {capacity}{_while(failure)}",
        detail=explained(profile, failure) if failure else profile.error,
        fix=_fix(profile, failure, moment),
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
    """Return the arithmetic of a failure: what was asked for, what was left, who held what."""
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
    if _is_in_pieces(profile, failure):
        lines.append(
            "In one piece that would have been enough: expandable segments leave fewer pieces."
        )
    if failure.remedy:
        lines.append(failure.remedy)
    return " ".join(lines)


def _holder(item: BillItem) -> str:
    name = " ".join(part for part in (item.holder, item.what) if part)
    return f"{name} {format_bytes(item.bytes)}"


def _is_in_pieces(profile: Profile, failure: Failure) -> bool:
    """Whether what was reserved and not allocated would have been enough, had it been in one piece.

    A component that is moved needs what of it is still missing, not its next tensor alone.
    """
    if failure.requested_bytes is None or failure.unallocated_bytes is None:
        return False
    needed = failure.requested_bytes
    if failure.doing == "onload":
        there = {i.holder: i.bytes for i in failure.holders if i.what == "weights"}
        whole = {part.name: part.allocated_bytes for part in profile.components}
        needed = max(needed, whole.get(failure.component, 0) - there.get(failure.component, 0))
    return failure.unallocated_bytes >= needed


def _missing(failure: Failure | None) -> int:
    if failure is None or failure.requested_bytes is None:
        return 0
    return max(failure.requested_bytes - (failure.free_bytes or 0), 0)


def _fix(profile: Profile, failure: Failure | None, moment: moments.Moment | None) -> str:
    if failure is not None and failure.remedy_code:
        return failure.remedy_code
    if failure is not None and _is_in_pieces(profile, failure):
        return _EXPANDABLE
    doing, component = (failure.doing, failure.component) if failure else ("", "")
    if failure is None and moment is not None:
        doing, component = moment.doing, moment.component
    return less_memory(profile, doing, component)


def less_memory(profile: Profile, doing: str, component: str) -> str:
    """Return the next thing to try, by what the run did already and where it was fullest."""
    if profile.mode == "resident":
        return "pipe.enable_model_cpu_offload()"
    if doing == "decode" and component:
        return f"pipe.{component}.enable_tiling()"
    if profile.mode == "model":
        return 'pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")'
    if profile.mode == "group-block":
        return 'pipe.enable_group_offload(..., offload_type="leaf_level")'
    return "a smaller height, width or batch: this mode already holds the fewest weights"


def ended_early(profile: Profile) -> Iterator[Finding]:
    """Yield why a run that did not run out of memory ended, and what would get it to its end."""
    if profile.complete or ran_out_of_memory(profile):
        return
    component, events = _where(profile)
    yield Finding(
        kind="incomplete",
        severity=PROBLEM,
        title="The run ended early",
        detail=profile.error,
        fix=_way_around(profile, component),
        bytes=0,
        components=(component,) if component else (),
        events=events,
    )


def left_cast(profile: Profile) -> Iterator[Finding]:
    """Yield the components that a call had cast when it failed, and did not cast back: the next call fails on them.

    SDXL casts its VAE to single precision for the decode and back after it, and takes one that is in single precision
    for one that need not be cast: the latents stay in half precision (diffusers 0.42.1).
    """
    if profile.complete or profile.failure is None:
        return
    dtypes = {part.name: part.dtype for part in profile.components}
    last = {event.component: event for event in profile.events if event.kind == "cast"}
    for name, event in last.items():
        half_way = (profile.failure.doing, profile.failure.component) == ("cast", name)
        if event.call < 0 or not (half_way or event.dtype != dtypes.get(name)):
            continue
        yield Finding(
            kind="left_cast",
            severity=PROBLEM,
            title=f"{name} was left as it was cast",
            detail=f"The call failed before {name} was cast back to {dtypes[name]}; the next one would fail on it.",
            fix=f"pipe.{name}.to(torch.{dtypes[name]})",
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
    """Return what keeps a component out of the offload or the casting that it failed under.

    diffusers 0.42.1: pinned copies do not follow a cast of the VAE, and hooks on `forward` do not fire for the `decode`
    of a VAE that names no blocks. A pipeline that takes the dtype of embeddings from its text encoder makes them in
    float8 where that stores its weights so.
    """
    for one in conditions(profile, "layerwise_casting"):
        named = one.detail.lower() in profile.error.lower() and not component
        if one.component == component or (named and one.component not in profile.denoisers):
            return f"load {one.component} again without layerwise casting, which cannot be undone"
    if profile.mode.startswith("group") and component and component not in profile.denoisers:
        return f'pipe.enable_group_offload(..., exclude_modules=["{component}"])'
    return "repair the cause and profile again"
