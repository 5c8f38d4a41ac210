"""The plan-independent part of a profile: what a pipeline's calls do under any offload plan.

A `Workload` is a tape of operations for each call. It keeps the entries and exits of components, casts, copies of
inputs and images, and the *floating* bytes, which are those allocated on the GPU besides weights. It drops the work of
hooks (moves of weights, emptied caches), so that a replay can insert the hooks of any other plan instead.

Limit: components must be on the GPU or off it as a whole, so profiles of sequential and group offload are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from profiler.errors import InputError
from profiler.gpus.hardware import BLAS_VARIABLE, gpu_spec
from profiler.placements.weights import Weights, weights_of
from profiler.planning.replaying.repeated import repeated_round
from profiler.planning.replaying.tape import Op, Stretch
from profiler.record.settings import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from profiler.record.components import Component
    from profiler.record.events import Event
    from profiler.record.profile import Profile

FREE = "free"
"""Kind of the operation that stands for `maybe_free_model_hooks`."""

HOOK_ASKER = "accelerate.CpuOffload"
_HOOK_ASKERS = frozenset({HOOK_ASKER, "diffusers.ComponentsManager"})
FREE_ASKERS = frozenset({"pipeline.maybe_free_model_hooks", "pipeline.enable_model_cpu_offload"})
_HOOK_KINDS = frozenset({"onload", "offload", "empty_cache"})
_FIRING_ENTRIES = frozenset(
    {"forward", "encode", "decode", "generate"}
)  # `generate` calls `forward`
_MODES = frozenset({"resident", "model"})


@dataclass(frozen=True)
class Workload:
    """The calls of one pipeline, independent of any plan."""

    components: tuple[Component, ...]
    calls: tuple[tuple[Op, ...], ...]
    device: str  # "cuda:0"
    fixed: frozenset[str] = (
        frozenset()
    )  # components that no hook moves: 8-bit weights stay on the GPU
    weights: tuple[int, ...] = (
        1,
    )  # how often each of the last calls, which make a round, occurs in it
    workspace_bytes: int = 0  # of cuBLAS on this GPU; 0 if unknown

    @property
    def names(self) -> tuple[str, ...]:
        """The components' names, in the order of `pipe.components`."""
        return tuple(component.name for component in self.components)

    def tape(self, call: int) -> tuple[Op, ...]:
        """Return the operations of call `call`; after the recorded calls the last round repeats."""
        return self.calls[call] if call < len(self.calls) else self._repeat(call)

    @property
    def repeated(self) -> range:
        """The numbers of the calls of the first repeated round."""
        return range(len(self.calls), len(self.calls) + len(self.weights))

    def _repeat(self, call: int) -> tuple[Op, ...]:
        ops = self._repeated_round[(call - len(self.calls)) % len(self.weights)]
        return tuple(op._replace(event=op.event._replace(call=call)) for op in ops)

    @cached_property
    def _repeated_round(self) -> tuple[tuple[Op, ...], ...]:
        return repeated_round(self.calls[-len(self.weights) :], self.workspace_bytes)


def workload_of(profile: Profile) -> Workload:
    """Return the plan-independent part of `profile`.

    Raises:
        InputError: if the profile is incomplete, holds no call, or was made under an offload that splits components.
    """
    _check(profile)
    ops = list(_read_ops(profile))
    calls: dict[int, list[Op]] = {}
    for op in ops:
        calls.setdefault(op.event.call, []).append(op)
    devices = {event.to_device for event in profile.events if event.kind == "onload"}
    device = min(devices) if devices else "cuda:0"
    eight_bit = {c.name for c in profile.components if c.quantization == "bitsandbytes-8bit"}
    fixed = frozenset() if _moves_eight_bit(profile.versions) else frozenset(eight_bit)
    weights = tuple(signature.weight for signature in profile.signatures) or (1,)
    if len(calls) < len(weights):
        raise InputError(
            "cannot plan from a profile that lacks some of its calls: profile it again"
        )
    return Workload(
        profile.components,
        tuple(tuple(_with_free(calls[call])) for call in sorted(calls)),
        device,
        fixed,
        weights,
        _workspace_bytes(profile),
    )


def _workspace_bytes(profile: Profile) -> int:
    variables = [one.value for one in profile.settings if one.what == ENVIRONMENT]
    config = variables[0].get(BLAS_VARIABLE, "") if variables else ""
    try:
        return gpu_spec(profile.gpu.name).blas_workspace_bytes(config)
    except InputError:
        return 0


def _moves_eight_bit(versions: dict[str, str]) -> bool:
    """Tell whether these versions move 8-bit weights; else `enable_model_cpu_offload` (diffusers 0.42) skips them."""
    least = {"transformers": (4, 58), "bitsandbytes": (0, 48)}
    return all(_version(versions.get(name, "0")) >= version for name, version in least.items())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _check(profile: Profile) -> None:
    if profile.mode not in _MODES:
        raise InputError(
            f"cannot plan from a profile of mode {profile.mode!r}: its components were split; "
            "profile the pipeline again with mode 'model' or 'resident'"
        )
    if not profile.complete:
        short = profile.failure is not None and profile.failure.out_of_memory
        helps = (
            'profile it on a GPU that is large enough (gpu="h200"); the plan is for the budget all the same'
            if short
            else "a run has to get to its end first"
        )
        raise InputError(f"cannot plan from an incomplete profile ({profile.error}): {helps}")
    if not any(event.kind == "end" for event in profile.events):
        raise InputError("cannot plan from a profile without a call of the pipeline")


class _Residents:
    """The allocated bytes of each component on the GPU, according to the profile's events."""

    def __init__(self, weights: dict[str, Weights], device: str) -> None:
        self._bytes = {name: each.on_device_bytes(device) for name, each in weights.items()}

    def total(self) -> int:
        return sum(self._bytes.values())

    def update(self, event: Event) -> None:
        if event.kind in ("onload", "offload", "cast") and event.component:
            self._bytes[event.component] = event.resident_bytes


def _read_ops(profile: Profile) -> Iterator[Op]:
    """Yield the operations of all calls, with the hooks' own events merged into the gap of the next operation."""
    residents = _Residents(weights_of(profile.components), _gpu_device(profile))
    gap: list[Stretch] = []
    base, free_seen = 0, False
    for event in profile.events:
        before = residents.total()
        residents.update(event)
        after = residents.total()
        if event.call < 0:
            continue
        peak = max(base, event.lead_peak_bytes - before, event.before_bytes - before)
        gap.append(
            Stretch(peak, base, profile.insides[event.inside] if event.inside >= 0 else None)
        )
        floating, base = event.before_bytes - before, event.after_bytes - after
        if _is_hook_event(event):
            if event.asked_by in FREE_ASKERS and not free_seen:
                free_seen = True
                yield Op(FREE, event, False, tuple(gap), floating, floating, base)
                gap = []
            continue
        free_seen = False
        yield _op(event, tuple(gap), before, after)
        gap = []


def _op(event: Event, gap: tuple[Stretch, ...], before: int, after: int) -> Op:
    floating_before, floating_after = event.before_bytes - before, event.after_bytes - after
    peak = max(floating_before, floating_after)
    if event.kind == "copy":
        peak = max(peak, event.peak_bytes - after)
    fires = event.kind == "enter" and event.entry in _FIRING_ENTRIES
    return Op(event.kind, event, fires, gap, floating_before, peak, floating_after)


def _is_hook_event(event: Event) -> bool:
    return event.kind in _HOOK_KINDS and (
        event.asked_by in _HOOK_ASKERS or event.asked_by in FREE_ASKERS
    )


def _with_free(ops: list[Op]) -> Iterable[Op]:
    """Insert a `FREE` before the call's end if none was recorded: without hooks it leaves no event."""
    if any(op.kind == FREE for op in ops):
        return ops
    end = next(index for index, op in enumerate(ops) if op.kind == "end")
    floating = ops[end].before_floating_bytes
    free = Op(FREE, ops[end].event, False, ops[end].gap, floating, floating, floating)
    ended = ops[end]._replace(gap=(Stretch(floating, floating),))
    return [*ops[:end], free, ended, *ops[end + 1 :]]


def _gpu_device(profile: Profile) -> str:
    devices = {tensor.device for component in profile.components for tensor in component.tensors}
    return next((device for device in sorted(devices) if device.startswith("cuda")), "cuda:0")
