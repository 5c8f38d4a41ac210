"""The record that stands in the middle: what one traced run of a pipeline did to memory.

A `Profile` is plain data. The tracer fills it, on a GPU or on the virtual one; the planner, the reports and the command
read it. Nothing here imports torch. Sizes are integers in bytes, times are seconds from the start of the trace.

Invariant: `events` are in the order in which they began, `ordinal` counts them from 0, and the spans
`[previous event's end, this event's start]` (its lead) and `[start, end]` (the event itself) cover the whole trace, so
the highest of all `lead_peak_bytes` and `peak_bytes` is the peak of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.record.components import Component, Components
from profiler.record.events import Event, Inside  # noqa: TC001  # for `get_type_hints`
from profiler.record.memory_history import MemoryHistory  # noqa: TC001  # for `get_type_hints`
from profiler.record.methods import ProfileMethods
from profiler.record.settings import Setting  # noqa: TC001  # for `get_type_hints`
from profiler.record.trial import Trial, WholeCall  # noqa: TC001  # the same

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The card that ran, or that the run was predicted for. Rates are bytes per second."""

    name: str
    capacity_bytes: int  # `total_memory` as the driver reports it
    context_bytes: int  # taken by the CUDA context before the first tensor
    slack_bytes: int  # reserved beyond allocated that the prediction allows for
    architecture: str = ""  # "sm_89"
    h2d_bytes_per_second: float = 0.0  # from pageable memory
    d2h_bytes_per_second: float = 0.0
    pinned_bytes_per_second: float = 0.0
    virtual: bool = True
    driver: str = ""
    is_default: bool = False  # nobody named it


@dataclass(frozen=True, kw_only=True)
class CardState:
    """What the driver said of a real card while the trace ran; None or () for what it does not tell.

    It was asked at the start, at the end, and where torch had reserved more than ever (by a fiftieth or more), which is
    where its memory is at the highest and its link at work.
    """

    readings: int  # how often it was asked
    used_bytes: int | None = None  # at the highest, by every process and the driver itself
    others_bytes: int | None = None  # of other processes, at the highest
    link_generation: int | None = None  # of PCIe, the highest seen: an idle card falls back
    link_width: int | None = None  # lanes, the most seen
    most_link_generation: int | None = None  # that card and slot have
    most_link_width: int | None = None
    received_bytes: int | None = None  # over PCIe during the trace, by the driver's counter
    sent_bytes: int | None = None
    held_back_by: tuple[str, ...] = ()  # why clocks were lower than they could be, whenever asked


@dataclass(frozen=True, kw_only=True)
class BillItem:
    """One holder of bytes at the worst moment."""

    holder: str  # component name, or ""
    what: str  # "weights", "activations", "workspace", "unattributed"
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Where an incomplete run ended and, out of memory, why. None where torch did not say.

    A measured run's sizes are those of torch's message, which rounds them to a hundredth of a unit.
    """

    component: str  # that worked or moved; "" for none
    doing: str  # "forward", "decode", ...; "onload", "cast"; "" between components
    phase: str
    step: int
    ordinal: int  # of the event in which it ended
    out_of_memory: bool = False
    requested_bytes: int | None = None  # of the segment that torch asked the driver for
    free_bytes: int | None = None  # on the card, as the driver says
    allocated_bytes: int | None = None
    unallocated_bytes: int | None = None  # reserved by torch, and not allocated
    largest_free_block_bytes: int | None = None  # of those
    holders: tuple[BillItem, ...] = ()  # who held `allocated_bytes`
    remedy: str = ""  # what would have fitted, in a sentence
    remedy_code: str = ""  # its line of code
    remedy_changes: dict[str, Any] = field(default_factory=dict)  # as `Finding.changes`
    allowed_bytes: int | None = None  # of the GPU, where `set_per_process_memory_fraction` says
    whole: WholeCall | None = None  # what the call takes without a limit


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """Something the prediction had to assume, and what it would change."""

    what: str
    count: int = 1
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something about the pipeline itself that no event shows, as it was when it was looked at.

    Kinds: `mode` (detail: how the pipe was placed, at the first call and wherever it changed); `foreign_hook` (the
    component carries an offload hook that another pipeline set up); `no_hook` (the pipeline's own hook of the component
    was taken off); `unlisted_hook` (it is hooked, and the pipeline has no list of hooks to offload by at the end of a
    call); `shared_exclusions` (a class's list of exclusions is not what its source says; detail: the class);
    `shared_file` (group offload keeps weights of the component in a file that another one writes, too; detail: the
    other one); `layerwise_casting` (its layers store their weights in the dtype `detail`); `gradients` (it ran with
    gradients on, and has weights that require them); `binned_size` (the pipeline ran another size than it was asked
    for; detail: `512 x 512 -> 1024 x 1024`); `made_size` (its picture has another size than asked for, `-` for a side
    that was not given; detail: `512 x - -> 768 x 768`).
    """

    what: str
    component: str = ""  # "" where it is the pipeline's
    call: int = -1  # the first call that began so; -1 where it was seen at the end of the trace
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CallSignature:
    """One of the calls that come again and again, as plain values."""

    pipeline_class: str
    call: dict[str, Any]  # arguments that shape the run
    weight: int = 1  # how often it comes, beside the others


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Figures of the whole run.

    Host memory, predicted: what tensors take, pageable as asked for, pinned as PyTorch's caching host allocator has it
    page-locked, freed blocks that it keeps included. Measured: the resident set of the process, at the events, which
    holds Python, its libraries and the touched pages of weight files besides; pinned memory by torch's own statistics,
    whether or not the system counts it to the resident set.

    Exposed transfer time is what a link without delay would save: the seconds of the calls, less those of the same
    calls with copies that take no time.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_bytes: int  # context + reserved: what nvidia-smi would show
    host_pinned_bytes: int  # the highest at the end of an event, as the next
    h2d_bytes: int  # everything that was copied
    d2h_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    seconds: float
    host_pageable_bytes: int = 0  # in a measured profile the resident set
    host_peak_bytes: int = 0  # both together at their highest
    host_kept_bytes: int = 0  # both together at the end of the trace
    loading_host_peak_bytes: int | None = (
        None  # while the weights are loaded; None where it is not known
    )
    transfer_seconds: float | None = None  # the link was busy, in calls; None where it is not known
    exposed_transfer_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Profile(ProfileMethods):
    """One traced run. See the module's docstring for the invariant of `events`."""

    source: str  # "measured" or "predicted"
    gpu: Gpu
    pipeline_class: str  # or the module's class, where one component was traced
    mode: str  # "resident", "model", "sequential", "group-block", "group-leaf", "mixed"
    components: tuple[Component, ...]
    events: tuple[Event, ...]
    totals: Totals
    bill: tuple[BillItem, ...] = ()
    model: str = ""  # catalogue name, folder or hub id; "" where the pipe was handed over
    dtype: str = ""  # of the largest component that is not quantised
    quantization: dict[str, str] = field(default_factory=dict)  # as asked for: component to kind
    dtypes: dict[str, str] = field(default_factory=dict)  # as asked for: component, or "default"
    call: dict[str, Any] = field(default_factory=dict)  # arguments that shape the run, plain values
    call_defaults: tuple[str, ...] = ()  # names in `call` that the profiler chose
    sequence: tuple[str, ...] = ()  # model_cpu_offload_seq, split
    excluded: tuple[str, ...] = ()  # _exclude_from_cpu_offload
    denoisers: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    assumptions: tuple[Assumption, ...] = ()
    error_band: float = 0.0  # what the peak may be too low by, as a fraction of it; 0 for measured
    error_band_below: float = 0.0  # what it may be too high by
    complete: bool = True
    error: str = ""  # why it is not complete
    insides: tuple[Inside, ...] = ()  # that events refer to
    places_itself: bool = False  # its class has an `enable_model_cpu_offload` of its own
    failure: Failure | None = None  # since version 0.4, as the next
    conditions: tuple[Condition, ...] = ()
    card_state: CardState | None = None  # of a measured run, where the driver tells
    signatures: tuple[CallSignature, ...] = ()  # of its calls, in order, where they are several
    settings: tuple[Setting, ...] = ()  # since version 0.5: what else changes memory or time
    trials: tuple[Trial, ...] = ()  # what was tried besides, so that findings tell what helps
    memory_history: MemoryHistory | None = (
        None  # where it was asked for; no part of a saved profile
    )

    def __post_init__(self) -> None:
        """Let the components show themselves as a table."""
        object.__setattr__(self, "components", Components(self.components))
