"""`verify`: one run of a pipeline under its plan, compared with what the plan promised."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from profiler.applying.apply import apply
from profiler.applying.drift import drift_of
from profiler.applying.hooks.sticky import share_end
from profiler.checking.given import check_given, check_pipeline
from profiler.errors import InputError
from profiler.gpus.hardware import gpu_spec
from profiler.pipelines.recorded_call import prepared_call, repeatable_call
from profiler.pipelines.sibling import sibling
from profiler.planning.plan import Plan, Predicted
from profiler.record import readings as reading
from profiler.tracing import trace
from profiler.units import format_bytes
from profiler.virtual import VirtualGPU

if TYPE_CHECKING:
    from profiler.record.events import Event
    from profiler.record.profile import Profile

_ROUNDS = 2  # the first may still set up workspaces; the plan's promise is for the second


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification:
    """The comparison of a run with a plan's promise."""

    held: bool
    promised: Predicted
    found: Predicted
    differences: tuple[str, ...]  # between the promise and the run
    drift: tuple[str, ...]  # in which the pipeline's state was no longer the plan's, before the run
    source: str  # "measured" or "predicted": whether a real GPU ran it
    profile: Profile

    def __repr__(self) -> str:
        """Return one line: whether the promise held, and both peaks."""
        held = "held" if self.held else "did not hold"
        found, promised = (
            format_bytes(one.peak_allocated_bytes) for one in (self.found, self.promised)
        )
        return f"<Verification, {self.source}: the plan {held}, peak {found}, promised {promised}>"

    def __str__(self) -> str:
        """Return the outcome in a sentence."""
        if self.held:
            return (
                f"The plan held: {format_bytes(self.found.peak_allocated_bytes)} peak "
                f"(promised {format_bytes(self.promised.peak_allocated_bytes)}), "
                f"{format_bytes(self.found.h2d_weight_bytes)} up and "
                f"{format_bytes(self.found.d2h_weight_bytes)} down per call, in the promised order."
            )
        return "The plan did not hold: " + "; ".join((*self.drift, *self.differences)) + "."

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "held": self.held,
            "source": self.source,
            "promised": asdict(self.promised),
            "found": asdict(self.found),
            "differences": list(self.differences),
            "drift": list(self.drift),
        }


def verify(pipe: Any, plan: Plan, **call: Any) -> Verification:
    """Run `pipe` under `plan` twice, and compare the second call with the promise.

    A plan for several calls is verified by a second round of them, each called once.

    If torch sees a GPU, real or virtual, the pipeline runs as it is, so a plan that is no longer in effect shows.
    Without a GPU, a copy of the pipeline runs on a virtual GPU of the plan's model, with the budget as its capacity;
    `pipe` is only read.

    Args:
        pipe: The pipeline, with the plan applied to it.
        plan: The plan to verify.
        **call: Arguments of the pipeline's call; the plan's own, with blank pictures, if none are given.

    Raises:
        InputError: if the plan is of another pipeline, or for several calls and one is given, or its GPU is unknown.
    """
    check_given(plan, Plan, to="verify()", instead="it is called as verify(pipe, plan)")
    if call and plan.signatures:
        raise InputError(
            "the plan is for several calls, and is verified by them: give no arguments"
        )
    check_pipeline(pipe, to="verify()")
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            virtual = stack.enter_context(
                VirtualGPU(gpu_spec(plan.gpu).with_capacity(plan.budget_bytes))
            )
            pipe = virtual.lend(pipe)
            apply(plan, pipe, disk_folder=stack.enter_context(TemporaryDirectory()))
        drift = drift_of(plan, pipe)
        profile = run_calls(plan, pipe, call)
    return compare(plan, profile, drift)


def compare(plan: Plan, profile: Profile, drift: tuple[str, ...] = ()) -> Verification:
    """Compare the last call of `profile`, or its last round of calls, with what `plan` promised."""
    last = max((event.call for event in profile.events), default=-1)
    weights = dict(enumerate(plan.weights, last + 1 - len(plan.weights)))
    events = [event for event in profile.events if event.call in weights]
    found = _found(plan, profile, events, weights)
    differences = _differences(plan, profile, events, found)
    return Verification(
        held=not differences and not drift,
        promised=plan.predicted,
        found=found,
        differences=differences,
        drift=drift,
        source=profile.source,
        profile=profile,
    )


def run_calls(plan: Plan, pipe: Any, call: dict[str, Any] | None = None) -> Profile:
    """Trace two rounds of the calls that a plan is for, on `pipe` as it is, and return the profile.

    Args:
        plan: The plan with the calls to make.
        pipe: The pipeline, placed.
        call: Arguments instead of the plan's.
    """
    given = [(type(pipe).__name__, call or plan.call)]
    if plan.signatures:
        given = [(one.pipeline_class, one.call) for one in plan.signatures]
    called = [_called(pipe, class_name) for class_name, _ in given]
    prepared = [
        prepared_call(one, repeatable_call(one, recorded)).arguments
        for one, (_, recorded) in zip(called, given, strict=True)
    ]
    tracing = trace(pipe, also=called, label={"model": plan.model, "call": dict(plan.call)})
    try:
        with tracing:
            for _ in range(_ROUNDS):
                for one, arguments in zip(called, prepared, strict=True):
                    one(**arguments)
    except torch.cuda.OutOfMemoryError:
        return tracing.profile  # which records the failure
    return tracing.profile


def _called(pipe: Any, class_name: str) -> Any:
    """Return the pipeline to call: `pipe`, or one of another class that shares its components and end of a call."""
    if class_name == type(pipe).__name__:
        return pipe
    other = sibling(pipe, class_name)
    share_end(pipe, other)
    return other


def _found(plan: Plan, profile: Profile, events: list[Event], weights: dict[int, int]) -> Predicted:
    peak = reading.called_peak_bytes(profile)
    margin, calls = plan.margin, sum(weights.values())
    moved = {
        kind: sum(weights[e.call] * e.bytes for e in events if e.kind == kind) // calls
        for kind in ("onload", "offload")
    }
    seconds = sum(times * _seconds(events, call) for call, times in weights.items()) / calls
    return Predicted(
        peak_allocated_bytes=peak,
        device_bytes=margin.context_bytes + peak + margin.slack_bytes,
        h2d_weight_bytes=moved["onload"],
        d2h_weight_bytes=moved["offload"],
        seconds=seconds if events else None,
    )


def _seconds(events: list[Event], call: int) -> float:
    starts = [event.start_seconds for event in events if event.call == call]
    return starts[-1] - starts[0] if starts else 0.0


def _differences(
    plan: Plan, profile: Profile, events: list[Event], found: Predicted
) -> tuple[str, ...]:
    complaints = [] if profile.complete else [f"the run ended with {profile.error}"]
    allowed = plan.margin.peak_allocated_bytes + plan.margin.error_band_bytes
    if found.peak_allocated_bytes > allowed:
        complaints.append(
            f"the peak was {format_bytes(found.peak_allocated_bytes)}, promised were at most {format_bytes(allowed)}"
        )
    for direction in ("h2d_weight_bytes", "d2h_weight_bytes"):
        was, promised = getattr(found, direction), getattr(plan.predicted, direction)
        if was != promised:
            way = "up" if direction.startswith("h2d") else "down"
            complaints.append(
                f"{format_bytes(was)} of weights went {way} in a call, promised were {format_bytes(promised)}"
            )
    return (*complaints, *_first_other_move(plan, events))


def _first_other_move(plan: Plan, events: list[Event]) -> list[str]:
    moves = [(e.kind, e.component, e.bytes) for e in events if e.kind in ("onload", "offload")]
    for index in range(max(len(moves), len(plan.moves))):
        was = moves[index] if index < len(moves) else None
        promised = plan.moves[index] if index < len(plan.moves) else None
        if was != promised:
            return [f"move {index + 1} of a call was {_move(was)}, promised was {_move(promised)}"]
    return []


def _move(move: tuple[str, str, int] | None) -> str:
    if move is None:
        return "none"
    kind, component, count = move
    return f"{kind} {component} ({format_bytes(count)})"
