"""Running out of memory on purpose: where a pipeline can be made to, how it is made to, and what is left of it.

A moment is the first time that a component is moved, cast, or entered. Just before it, the allocator is held half-way
between what is allocated then and the most that the moment takes, so that it cannot get through.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from at_hand import call_of, pipeline_at_hand, reserving_at_most, run_without_limit

from profiler.applying import apply
from profiler.errors import FindingError
from profiler.libraries.modes import Mode
from profiler.libraries.modules import resident_bytes, tensors_of
from profiler.libraries.placing import enable_mode
from profiler.patching import Patches
from profiler.planning import Plan, plan_offload
from profiler.sizing.size import plan_model
from profiler.tracing import trace
from profiler.units import MIB, TIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiler.gpus.hardware import GpuSpec
    from profiler.record.events import Event
    from profiler.record.profile import Profile

MODES = ("resident", "model", "sequential")
CALLS_AFTER = 2  # under the plan: the second begins with what the first left behind
_MOVES = ("onload", "cast")
_LEAST_GROWTH_BYTES = 2 * MIB  # a small segment: what may be free in those that are there
_ROOMS = (1.0, 1.05, 1.2)  # of the smallest budget, which is searched for and not run


class Moment(NamedTuple):
    """Where a run is made to fail."""

    mode: str
    phase: str
    component: str
    doing: str  # "onload", "cast", or the entry point: "forward", "decode", ...
    held_at: str  # where the limit is set: as `doing`
    before_bytes: int  # the most that is allocated from there until it begins
    peak_bytes: int

    @property
    def id(self) -> str:
        """What names it in files and on the command line."""
        return f"{self.mode}:{self.phase}:{self.component}.{self.doing}"

    @property
    def limit_bytes(self) -> int:
        """What the allocator may reserve."""
        return (self.before_bytes + self.peak_bytes) // 2


def moments_of(model: str, call: dict[str, Any], mode: str, spec: GpuSpec) -> list[Moment]:
    """Return where a run can be made to fail, in the order of the run."""
    events = run_without_limit(model, call, mode, spec).events
    found: dict[tuple[str, str], Moment] = {}
    for number, event in enumerate(events):
        doing = event.entry if event.kind == "enter" else event.kind
        if (event.component, doing) in found or not event.component:
            continue
        if event.kind == "enter":
            inside = list(_inside(events, number))
            held_at, before, peak = _within(event, inside, whole=mode == "sequential")
        elif event.kind in _MOVES and not event.group and "cuda" in event.to_device:
            held_at, before, peak = event.kind, event.before_bytes, event.peak_bytes
        else:
            continue
        if peak > before + _LEAST_GROWTH_BYTES:
            moment = Moment(mode, event.phase, event.component, doing, held_at, before, peak)
            found[event.component, doing] = moment
    return list(found.values())


def _within(entered: Event, inside: list[Event], *, whole: bool) -> tuple[str, int, int]:
    """Return where the limit for an entry point is set, the most before it computes, and the most of it.

    Args:
        entered: its beginning.
        inside: what follows, its exit the last.
        whole: whether its moves belong to it, as those of sequential offload.
    """
    peak = max(max(one.lead_peak_bytes, one.peak_bytes) for one in inside)
    if whole:
        return entered.entry, entered.after_bytes, peak
    came = [
        i
        for i, one in enumerate(inside)
        if (one.kind, one.component) == ("onload", entered.component)
    ]
    if not came:
        return entered.entry, max(entered.after_bytes, *_levels(inside)), peak
    # Its own weights come first; who was there before has gone by then.
    after = inside[came[0] :]
    before = max(after[0].reserved_bytes, *_levels(after))
    return "onload", before, max(one.lead_peak_bytes for one in after[1:])


def _levels(events: list[Event]) -> list[int]:
    return [one.peak_bytes for one in events[:-1]] or [0]


def _inside(events: tuple[Event, ...], entered: int) -> Iterator[Event]:
    """Yield the events inside a component's entry point, its exit the last."""
    name = events[entered].component
    for event in events[entered + 1 :]:
        yield event
        if event.kind == "exit" and event.component == name:
            return


def least_budget_bytes(profile: Profile) -> int:
    """Return the smallest budget in which there is a plan."""
    return plan_offload(profile, TIB).smallest_budget_bytes


def plan_within(profile: Profile, budget_bytes: int) -> Plan:
    """Return the best plan under a budget, or a little above it where no run gets through under it.

    Raises:
        FindingError: if there is none.
    """
    *rooms, last = _ROOMS
    for room in rooms:
        try:
            return plan_model(profile, int(budget_bytes * room))
        except FindingError:
            continue
    return plan_model(profile, int(budget_bytes * last))


def fail(
    model: str, call: dict[str, Any], moment: Moment, plan: Plan, stand_in: GpuSpec | None
) -> dict[str, Any]:
    """Return what is said of a run that is made to fail, and whether the pipe works under `plan` afterwards."""
    with pipeline_at_hand(model, stand_in) as pipe:
        arguments = call_of(pipe, call)
        profile = _failed(pipe, arguments, moment)
        found = {**_told(profile, moment), "weights_counted": _weights_agree(pipe, profile)}
        context_bytes = plan.margin.context_bytes
        _cast_back(pipe, profile)
        found["budget_bytes"] = plan.budget_bytes
        found["placements"] = dict(plan.placements)
        try:
            with reserving_at_most(plan.budget_bytes - context_bytes):
                apply(plan, pipe)
                for _ in range(CALLS_AFTER):
                    pipe(**arguments)
        except (RuntimeError, ValueError) as error:
            return {
                **found,
                "works_after": False,
                "error_after": f"{type(error).__name__}: {error}",
            }
        return {**found, "works_after": True}


def _failed(pipe: Any, arguments: dict[str, Any], moment: Moment) -> Profile:
    tracing = trace(pipe)
    try:
        with _held_from(pipe, moment), tracing:
            enable_mode(pipe, Mode(name=moment.mode))
            pipe(**arguments)
    except torch.cuda.OutOfMemoryError:
        return tracing.profile
    return tracing.profile


def _told(profile: Profile, moment: Moment) -> dict[str, Any]:
    """Return what the profile says, and whether it is what was done."""
    failure = profile.failure
    found: dict[str, Any] = {"complete": profile.complete, "error": profile.error}
    if failure is None:
        return {**found, "who_and_when": False, "adds_up": False}
    doing = failure.doing if moment.mode != "sequential" else moment.doing
    said = (failure.phase, failure.component, doing)
    sizes = [item.bytes for item in failure.holders]
    return {
        **found,
        "said": f"{failure.phase}:{failure.component}.{failure.doing}",
        "who_and_when": said == (moment.phase, moment.component, moment.doing),
        "adds_up": failure.out_of_memory and sum(sizes) == failure.allocated_bytes,
        "holders": [f"{item.holder} {item.what} {item.bytes}" for item in failure.holders],
        "requested_bytes": failure.requested_bytes,
        "finding": next((one.title for one in profile.findings if one.kind == "out_of_memory"), ""),
    }


def _cast_back(pipe: Any, profile: Profile) -> None:
    """Do what the profile says of components that the failed call had cast."""
    dtypes = {part.name: getattr(torch, part.dtype) for part in profile.components}
    for finding in profile.findings:
        if finding.kind == "left_cast":
            (name,) = finding.components
            getattr(pipe, name).to(dtypes[name])


def _weights_agree(pipe: Any, profile: Profile) -> bool:
    """Whether the weights that are said to be on the GPU are those that are still there."""
    if profile.failure is None:
        return False
    said = {item.holder: item.bytes for item in profile.failure.holders if item.what == "weights"}
    modules = {part.name: getattr(pipe, part.name) for part in profile.components}
    counted = {name: resident_bytes(tensors_of(module)) for name, module in modules.items()}
    return said == {name: nbytes for name, nbytes in counted.items() if nbytes}


@contextmanager
def _held_from(pipe: Any, moment: Moment) -> Iterator[None]:
    """Hold the allocator to the moment's limit from where it begins."""
    module = getattr(pipe, moment.component)
    capacity_bytes = torch.cuda.get_device_properties(0).total_memory
    empty_cache = torch.cuda.empty_cache  # before the tracer stands there

    def hold(*_: Any) -> None:
        empty_cache()
        torch.cuda.set_per_process_memory_fraction(moment.limit_bytes / capacity_bytes)

    with Patches() as patches:
        handles = []
        if moment.held_at in _MOVES:
            patches.replace(module, "to", _before_move(module, moment.held_at, hold))
        elif moment.held_at == "forward":
            handles = [module.register_forward_pre_hook(hold, prepend=True)]
        else:
            patches.replace(module, moment.held_at, _before(getattr(module, moment.held_at), hold))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            torch.cuda.set_per_process_memory_fraction(1.0)


def _before(original: Callable[..., Any], hold: Callable[[], None]) -> Callable[..., Any]:
    def entry(*args: Any, **kwargs: Any) -> Any:
        hold()
        return original(*args, **kwargs)

    return entry


def _before_move(
    module: torch.nn.Module, kind: str, hold: Callable[[], None]
) -> Callable[..., Any]:
    original = module.to

    def to(*args: Any, **kwargs: Any) -> Any:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        first = next(module.parameters())
        there = first.device.type == "cuda"
        moves = device is not None and device.type == "cuda" and not there
        casts = there and dtype not in (None, first.dtype)
        if {"onload": moves, "cast": casts}[kind]:
            hold()
        return original(*args, **kwargs)

    return to
