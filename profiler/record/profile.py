"""The central record: the memory use of one traced run of a pipeline.

A `Profile` is plain data. The tracer fills it, on a real or a virtual GPU; the planner, the reports and the command
read it. Nothing here imports torch. Sizes are integers in bytes, times are seconds from the start of the trace.

Invariant: `events` are in the order in which they began, `ordinal` counts them from 0, and the spans
`[previous event's end, this event's start]` (its gap) and `[start, end]` (the event itself) cover the whole trace, so
the highest of all `lead_peak_bytes` and `peak_bytes` is the peak of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.record.components import Component, Components
from profiler.record.events import Event, SubmoduleSpan  # noqa: TC001  # for `get_type_hints`
from profiler.record.memory_history import MemoryHistory  # noqa: TC001  # for `get_type_hints`
from profiler.record.methods import ProfileMethods
from profiler.record.modular import is_modular_class
from profiler.record.settings import Setting  # noqa: TC001  # for `get_type_hints`
from profiler.record.trial import Trial, WholeCall  # noqa: TC001  # the same

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU of the run, or the one that the run was predicted for. Rates are bytes per second."""

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
    is_default: bool = False  # no GPU was named
    unified_memory: bool = False  # host and GPU share `capacity_bytes`


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """The driver's readings of a real GPU during the trace; None or () for values that it does not report.

    The driver is queried at the start, at the end, and whenever torch had reserved more than ever before (by a fiftieth
    or more), which is when memory is at its highest and the link is active.
    """

    readings: int  # number of queries
    used_bytes: int | None = None  # at the highest, by every process and the driver itself
    others_bytes: int | None = None  # of other processes, at the highest
    link_generation: int | None = None  # of PCIe, the highest seen: an idle GPU lowers it
    link_width: int | None = None  # lanes, the most seen
    most_link_generation: int | None = None  # the maximum of GPU and slot
    most_link_width: int | None = None
    received_bytes: int | None = None  # over PCIe during the trace, by the driver's counter
    sent_bytes: int | None = None
    held_back_by: tuple[str, ...] = ()  # reasons for lowered clocks, of all queries


@dataclass(frozen=True, kw_only=True)
class PeakItem:
    """One holder of bytes at the peak."""

    holder: str  # component name, or ""
    what: str  # "weights", "activations", "workspace", "unattributed"
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of an incomplete run and, if it ran out of memory, the reason. None for values that torch did not report.

    The sizes of a measured run are those of torch's message, which rounds them to a hundredth of a unit.
    """

    component: str  # that computed or moved; "" for none
    doing: str  # "forward", "decode", ...; "onload", "cast"; "" between components
    phase: str
    step: int
    ordinal: int  # of the event in which it ended
    out_of_memory: bool = False
    requested_bytes: int | None = None  # of the segment that torch requested from the driver
    free_bytes: int | None = None  # on the GPU, as the driver reports
    allocated_bytes: int | None = None
    unallocated_bytes: int | None = None  # reserved by torch, and not allocated
    largest_free_block_bytes: int | None = None  # of the unallocated bytes
    holders: tuple[PeakItem, ...] = ()  # holders of `allocated_bytes`
    remedy: str = ""  # a sentence on what would have fitted
    remedy_code: str = ""  # its line of code
    remedy_changes: dict[str, Any] = field(default_factory=dict)  # as `Finding.changes`
    allowed_bytes: int | None = (
        None  # of the GPU, if `set_per_process_memory_fraction` sets a limit
    )
    whole: WholeCall | None = None  # the call without a limit


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """An assumption of the prediction, and its effect."""

    what: str
    count: int = 1
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A property of the pipeline itself that no event shows, as it was when it was recorded.

    Kinds: `mode` (detail: the pipeline's placement, at the first call and whenever it changed); `foreign_hook` (the
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
    component: str = ""  # "" for the pipeline
    call: int = -1  # the first call that began so; -1 if it was recorded at the end of the trace
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class CallSignature:
    """One of the calls that repeat, as plain values."""

    pipeline_class: str
    call: dict[str, Any]  # arguments that shape the run
    weight: int = 1  # how often it occurs, relative to the others


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Figures of the whole run.

    Predicted host memory is that of tensors: pageable as requested, pinned as PyTorch's caching host allocator has
    page-locked it, including freed blocks that it keeps. Measured host memory is the resident set of the process at the
    events, which also holds Python, its libraries and the touched pages of weight files; pinned memory is that of
    torch's own statistics, whether or not the system counts it in the resident set.

    Exposed transfer time is the time that a link without delay would save: the seconds of the calls, less those of the
    same calls with copies that take no time.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_bytes: int  # context + reserved, as nvidia-smi would show it
    host_pinned_bytes: int  # the highest at the end of an event
    h2d_bytes: int  # of all copies
    d2h_bytes: int
    h2d_weight_bytes: int
    d2h_weight_bytes: int
    seconds: float
    host_pageable_bytes: int = 0  # likewise; in a measured profile the resident set
    host_peak_bytes: int = 0  # both together at their highest
    host_kept_bytes: int = 0  # both together at the end of the trace
    loading_host_peak_bytes: int | None = None  # while the weights are loaded; None if unknown
    transfer_seconds: float | None = None  # the link was busy, in calls; None if unknown
    exposed_transfer_seconds: float | None = None
    host_bound_seconds: float | None = None  # the GPU waited for the host; None if unknown
    # Context + reserved + host memory at their highest, if host and GPU share one memory; else, or if measured, None.
    shared_peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Profile(ProfileMethods):
    """One traced run. See the module's docstring for the invariant of `events`."""

    source: str  # "measured" or "predicted"
    gpu: Gpu
    pipeline_class: str  # or the module's class, if a single component was traced
    mode: str  # "resident", "model", "sequential", "group-block", "group-leaf", "mixed"
    components: tuple[Component, ...]
    events: tuple[Event, ...]
    totals: Totals
    bill: tuple[PeakItem, ...] = ()
    model: str = ""  # name, folder, hub id or file; "" if the pipeline was passed in
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
    error_band: float = 0.0  # by which the peak may be too low, as a fraction of it; 0 for measured
    error_band_below: float = 0.0  # by which it may be too high
    seconds_band: float = (
        0.0  # by which the seconds may be too low; 0 for measured or unfinished; since 0.6
    )
    seconds_band_below: float = 0.0  # by which they may be too high
    complete: bool = True
    error: str = ""  # why it is not complete
    insides: tuple[SubmoduleSpan, ...] = ()  # that events refer to
    places_itself: bool = False  # its class has an `enable_model_cpu_offload` of its own
    failure: Failure | None = None  # since version 0.4, as the next
    conditions: tuple[Condition, ...] = ()
    card_state: GpuState | None = None  # of a measured run, if the driver reports it
    signatures: tuple[CallSignature, ...] = ()  # of its calls, in order, if there are several
    settings: tuple[Setting, ...] = ()  # since version 0.5: what else changes memory or time
    trials: tuple[Trial, ...] = ()  # further runs, so that findings recommend what helps
    config: str = ""  # of a model in one file, as asked for; since 0.6
    memory_history: MemoryHistory | None = None  # if requested; not part of a saved profile

    @property
    def is_modular(self) -> bool:
        """Whether the pipeline is made of blocks: it has no model offload of its own, and no end of a call."""
        return is_modular_class(self.pipeline_class)

    def __post_init__(self) -> None:
        """Make the components display as a table."""
        object.__setattr__(self, "components", Components(self.components))
