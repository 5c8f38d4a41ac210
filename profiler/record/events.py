"""Events of a run that changed memory, one after the other, and the visits to components' parts between two events."""

from __future__ import annotations

from typing import NamedTuple

from profiler.units import format_bytes

KINDS = (
    "begin",
    "end",
    "enter",
    "exit",
    "onload",
    "offload",
    "cast",
    "copy",
    "empty_cache",
    "sync",
)
PHASES = ("place", "encode", "denoise", "decode")


class Event(NamedTuple):
    """One event that concerns memory.

    Kinds: `begin` and `end` of one call of the pipeline; `enter` and `exit` of a component's entry point; `onload`,
    `offload` and `cast` of weights (an `offload` to "meta" that was `asked_by` the `script`: the script dropped the
    component, and its weights with it); `copy` of anything else between host and device (inputs, images);
    `empty_cache`; `sync`.
    """

    ordinal: int
    call: int  # number of the pipeline's call, from 0; -1 outside any call
    kind: str
    component: str  # "" if it belongs to none
    group: str  # block group or submodule inside the component; "" for the whole component
    entry: str  # entry point of enter and exit events: forward, encode, decode, ...; else ""
    bytes: int  # bytes moved (onload, offload, copy) or bytes after (cast); else 0
    dtype: str  # dtype of most of the bytes; "" if it has no meaning
    from_device: str  # "cpu", "cuda:0", "meta", "disk", ""
    to_device: str
    stream: int  # 0 is the default stream
    phase: str  # one of PHASES
    step: int  # denoise step from 0; -1 outside the loop
    asked_by: str  # accelerate.CpuOffload, accelerate.AlignDevicesHook, diffusers.ModuleGroup, pipeline.to, ...
    lead_peak_bytes: int  # highest allocated between the previous event's end and this one's start
    before_bytes: int  # allocated at the start
    peak_bytes: int  # highest allocated during the event
    after_bytes: int  # allocated at the end
    reserved_bytes: int  # reserved at the end
    resident_bytes: int  # allocated bytes of the component's tensors on the device, at the end
    start_seconds: float
    seconds: float
    # Since version 0.3; 0 in an older file. Host memory as `Totals` explains it.
    host_pageable_bytes: int = 0  # at the end
    host_pinned_bytes: int = 0  # at the end
    host_peak_bytes: int = 0  # highest of both together since the previous event's end
    # Time that copies kept the link busy since the previous event's end, and the part of it that delayed the default
    # stream; below 0 if the run catches up. 0 in a measured profile: torch does not report it.
    transfer_seconds: float = 0.0
    exposed_transfer_seconds: float = 0.0
    # Since version 0.4: the visits to components' parts in its gap, an index into `Profile.insides`; -1 for none.
    inside: int = -1


class Visit(NamedTuple):
    """The entry or exit of one part of a component. Bytes and nanoseconds count from the beginning of the interval."""

    component: int  # index into `Profile.components`
    part: int  # index into `Component.parts`
    entering: int  # 1, or 0 for an exit
    peak_bytes: int  # highest allocated since the last visit
    allocated_bytes: int  # at this moment
    host_nanoseconds: (
        int  # work so far of the host, and below of the default stream, if copies took no time
    )
    stream_nanoseconds: int


class SubmoduleSpan(NamedTuple):
    """Visits to the components' parts between two events; equal ones are kept once."""

    visits: tuple[Visit, ...]
    peak_bytes: int  # highest allocated since the last visit, to the end of the interval
    host_nanoseconds: int  # of the whole interval
    stream_nanoseconds: int


class Moment(NamedTuple):
    """The moment of a stretch with the highest allocated bytes."""

    ordinal: int
    peak_bytes: int
    phase: str
    step: int
    component: str  # that computed or moved; "" for neither
    doing: str  # "forward", "decode", ... while it computed; one of MOVES while it moved; "" for neither

    def __repr__(self) -> str:
        """Return size, time and activity: `<Moment: 5.09 GiB allocated, denoise step 2, unet forward, event 31>`."""
        when = f"denoise step {self.step + 1}" if self.step >= 0 else self.phase
        who = " ".join(filter(None, (self.component, self.doing)))
        words = (f"{format_bytes(self.peak_bytes)} allocated", when, who, f"event {self.ordinal}")
        return f"<Moment: {', '.join(filter(None, words))}>"
