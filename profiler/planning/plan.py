"""The plan: the components to offload and their order, the promised figures, and the proof that no plan is better.

A `Plan` is plain data with a JSON file. `Plan.apply` and `Plan.to_code` put it into effect.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from profiler import upward
from profiler.placements.scheme import Scheme
from profiler.placements.table import placement_of
from profiler.planning.replaying.uses import Use  # noqa: TC001  # for `get_type_hints`
from profiler.record.settings import Setting, run_words
from profiler.units import NANOSECONDS, format_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

SCHEMA_VERSION = 1

TIE = 0.01
"""The fraction of their seconds by which tied plans differ at most; two runs of one call differ by as much."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The memory that a plan needs, and the weights that it moves.

    Bytes moved and seconds are those of one call, once calls repeat; of a plan for several calls, their mean by weight.
    """

    peak_allocated_bytes: int
    device_bytes: int  # context + peak + slack + error band, and shared host memory: what the budget must cover
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    seconds: float | None = None  # None if the copy rates of the GPU are unknown
    first_seconds: float | None = None  # to the end of the first call, set-up included
    host_pageable_bytes: int = 0  # of weights, at rest
    host_pinned_bytes: int = 0
    seconds_band: float = 0.0  # by which `seconds` may be too low, as a fraction; 0 if unknown
    seconds_band_below: float = 0.0  # by which they may be too high


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """One of several calls that a plan is for, and the weights that it moves, once rounds repeat."""

    pipeline_class: str
    call: dict[str, Any]
    weight: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    seconds: float | None = None  # None if the copy rates of the GPU are unknown
    seconds_band: float = 0.0  # by which `seconds` may be too low, as a fraction; 0 if unknown
    seconds_band_below: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another plan, and its promised figures."""

    sequence: tuple[str, ...]
    excluded: tuple[str, ...]
    sticky: bool
    predicted: Predicted
    inside: dict[str, dict[str, Any]] = field(default_factory=dict)
    swaps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Margin:
    """The arithmetic of the promise: `device_bytes` is the sum of all terms before it and of `host_bytes`.

    The budget covers it.
    """

    context_bytes: int
    peak_allocated_bytes: int
    slack_bytes: int
    error_band_bytes: int
    device_bytes: int
    budget_bytes: int
    host_bytes: int = 0  # of host memory, on a GPU that shares it; since version 0.7

    @property
    def left_bytes(self) -> int:
        """The part of the budget that is left over."""
        return self.budget_bytes - self.device_bytes

    @property
    def allocatable_bytes(self) -> int:
        """The highest peak that the budget would cover, with the same slack and the error band in proportion."""
        room = self.budget_bytes - self.context_bytes - self.slack_bytes - self.host_bytes
        peak = self.peak_allocated_bytes
        return room * peak // (peak + self.error_band_bytes) if peak else room


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Proof that no other candidate is better: none of them, explored or not, can cost less than `bound`.

    If `cost` is higher and `gap` 0, the plan is tied with the best one by `TIE`, and changes fewer placements.
    """

    objective: str  # "bytes" or "seconds"
    cost: (
        int  # of the plan: bytes or nanoseconds of weight copies per call, or per round of several
    )
    bound: int
    gap: int
    nodes: int  # partial plans that were opened
    candidates: int  # plans in all


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """The smallest budget for which some plan exists, and what decides it."""

    budget_bytes: int
    component: str  # that runs at the peak; "" if the peak is between components
    moment: str  # for example "denoise step 0"
    weight_bytes: int  # on the GPU at that moment
    other_bytes: int
    plan: Alternative


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """One offload plan for one pipeline, call and GPU."""

    pipeline_class: str
    sequence: tuple[str, ...]
    excluded: tuple[str, ...]  # in the order of `pipe.components`
    sticky: bool
    placements: dict[str, str]
    predicted: Predicted
    stock: Alternative  # the pipeline without the plan
    margin: Margin
    proof: Proof
    smallest: Smallest
    runner_up: Alternative | None = None
    front: tuple[
        Alternative, ...
    ] = ()  # Pareto front: from the smallest peak to the least transfers
    immovable: tuple[
        str, ...
    ] = ()  # 8-bit components that stay on the GPU because nothing can move them
    moves: tuple[
        tuple[str, str, int], ...
    ] = ()  # (kind, component, bytes) of a call, once calls repeat; of a round each call once
    model: str = ""
    call: dict[str, Any] = field(default_factory=dict)
    gpu: str = ""
    dtype: str = ""  # of the largest component that is not quantised
    quantization: dict[str, str] = field(default_factory=dict)
    # Since version 0.4. Components that are split or streamed, as `placements.placement_record` writes them; the ways
    # in which components leave the GPU, if not by a copy; settings of the denoisers and the VAE.
    inside: dict[str, dict[str, Any]] = field(default_factory=dict)
    swaps: dict[str, str] = field(default_factory=dict)
    modifiers: tuple[str, ...] = ()  # of MODIFIERS
    uses: tuple[Use, ...] = ()  # of one call, in order, for `as_offload_strategy`
    ram_bytes: int | None = None  # limit of host memory; None for unlimited
    signatures: tuple[PlannedCall, ...] = ()  # if it is for several calls; the first one is `call`
    # Since version 0.5. The run that the plan was made from, and is valid for.
    gpu_bytes: int = 0  # total memory of the GPU; 0 if unknown
    gpu_is_default: bool = False  # no GPU was named
    gpu_is_unified: bool = False  # host and GPU share one memory; since version 0.7
    dtypes: dict[str, str] | None = (
        None  # as asked for, component or "default"; None in older files
    )
    other_dtypes: dict[str, str] = field(default_factory=dict)  # of components not in `dtype`
    settings: tuple[Setting, ...] = ()  # besides the placement, including `modifiers`
    config: str = ""  # of a model in one file, as asked for; since 0.6
    schema_version: int = SCHEMA_VERSION

    @property
    def tied_seconds(self) -> float:
        """The seconds of a call by which the fastest plan is faster, if this one is simpler and tied with it."""
        calls = 1 if self.proof.objective == "first-image" else sum(self.weights)
        tied = self.proof.objective != "bytes" and not self.proof.gap
        return (self.proof.cost - self.proof.bound) / NANOSECONDS / calls if tied else 0.0

    @property
    def budget_bytes(self) -> int:
        """The GPU memory that the plan must stay within."""
        return self.margin.budget_bytes

    @property
    def smallest_budget_bytes(self) -> int:
        """The smallest budget for which some plan exists."""
        return self.smallest.budget_bytes

    @property
    def weights(self) -> tuple[int, ...]:
        """The number of times that each of its calls occurs in a round."""
        return tuple(one.weight for one in self.signatures) or (1,)

    @property
    def run_words(self) -> list[str]:
        """Phrases that describe the planned run besides its model, call and placement."""
        return run_words(
            dtype=self.dtype,
            dtypes=self.other_dtypes,
            quantization=self.quantization,
            settings=self.settings,
        )

    @property
    def scheme(self) -> Scheme:
        """The placement of all components, as one record."""
        inside = {name: placement_of(record) for name, record in self.inside.items()}
        return Scheme(
            self.sequence, frozenset(self.excluded), self.sticky, inside, dict(self.swaps)
        )

    def apply(
        self,
        pipe: Any,
        *,
        gpu_id: int | None = None,
        device: Any = None,
        disk_folder: str | os.PathLike[str] | None = None,
        also: Sequence[Any] = (),
    ) -> Any:
        """Put the plan into effect on `pipe`, and return the handle whose `undo` reverts it.

        Args:
            pipe: The pipeline, which is changed in place.
            gpu_id: As `pipe.enable_model_cpu_offload` takes it.
            device: As that method takes it.
            disk_folder: The folder for groups that the plan keeps on disk.
            also: Other pipelines over components of `pipe`: their calls then end as those of `pipe` do.

        Raises:
            InputError: as `profiler.apply`; nothing has changed then.
        """
        return upward.call(
            "apply", self, pipe, gpu_id=gpu_id, device=device, disk_folder=disk_folder, also=also
        )

    def as_offload_strategy(self) -> Any:
        """Return a strategy for `ComponentsManager.set_offload_strategy`; see `profiler.applying.offload_strategy`.

        Raises:
            InputError: if the plan was written before plans kept the order of uses.
            FindingError: if the budget does not hold a component as a whole.
        """
        return upward.call("offload_strategy", self)

    def to_code(self) -> str:
        """Return code that puts the plan into effect on a variable `pipe`, and does not need this package.

        Whatever diffusers can do is written as its own calls; for the rest, the code contains the source of the hooks
        that `apply` attaches. The code cannot be undone; `apply` can.
        """
        code: str = upward.call("plan_code", self)
        return code

    def to_text(self) -> str:
        """Return the plan in a few lines for a terminal."""
        text: str = upward.call("plan_text", self)
        return text

    def __repr__(self) -> str:
        """Return one line: the components that stay, those that take turns, and the memory needed."""
        stays = ", ".join(self.excluded) or "nothing"
        needed, budget = (
            format_bytes(size) for size in (self.margin.device_bytes, self.budget_bytes)
        )
        turns = " -> ".join(self.sequence) or "nothing"
        return f"<Plan for {self.pipeline_class}: keeps {stays}; {turns} in turn; {needed} of {budget}>"

    def _repr_html_(self) -> str:
        html: str = upward.call("plan_html", self)
        return html

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON: everything, with the keys of a profile's summary under `plan`."""
        record = self.plain()
        return {
            "schema_version": self.schema_version,
            "model": self.model,
            "pipeline_class": self.pipeline_class,
            "gpu": self.gpu,
            "plan": {**record, "budget_bytes": self.budget_bytes},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to `path` as JSON, whole or not at all.

        Raises:
            InputError: if `path` cannot be written.
        """
        upward.call("save_plan", self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the plan that `save` wrote to `path`.

        Raises:
            InputError: if it cannot be read, is not a plan, holds anything but a name, number or placement in the
                place of one, or was written by a newer version.
        """
        plan: Self = upward.call("load_plan", path)
        return plan

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain data, with tuples as lists as they come back from JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain
