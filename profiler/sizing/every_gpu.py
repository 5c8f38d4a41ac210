"""One scenario on many GPUs: whether each runs it, and in what time, from as few runs as will do.

GPUs of one compute capability run the same kernels. One of them runs, with unlimited memory, for all on which every
kernel takes the same memory (`virtual/other_gpus.py`); the rest are left for the next run. With unlimited memory
PyTorch never gives cached memory back. So the answer is exact for a GPU that holds what was reserved, and for one that
cannot hold what was requested; a GPU in between runs by itself, with its own memory. A run that went by time
(`record_stream`), or by the GPU's name or memory, is shared by none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from profiler.checking.given import check_given
from profiler.errors import FindingError, InputError
from profiler.gpus.calibration import as_measured
from profiler.gpus.hardware import GpuSpec, gpu_spec_of, gpu_specs
from profiler.record.readings import call_seconds
from profiler.record.verdict import DOES_NOT_FIT, FITS, TIGHT, verdict
from profiler.sizing.runs import profile_on
from profiler.sizing.scenario import Scenario
from profiler.units import TIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from profiler.record.profile import Profile
    from profiler.sizing.runs import Report
    from profiler.virtual.other_gpus import OtherGpus

ALL = "all"
"""The word for every known GPU."""


@dataclass(frozen=True, kw_only=True)
class OnGpu:
    """One scenario on one GPU.

    Where it does not fit, what is needed is the least that it takes there: what is allocated at once, without what
    PyTorch caches besides.
    """

    gpu: str  # its key: rtx-4090
    name: str
    capacity_bytes: int
    answer: str  # as `record.verdict.Verdict.answer`
    needed_bytes: int  # context + reserved + error band
    spare_bytes: int  # capacity - needed; negative if it does not fit
    peak_allocated_bytes: int  # of a GPU with unlimited memory if it does not fit
    peak_reserved_bytes: int  # the same
    seconds: float | None  # of all calls; None if it does not fit
    seconds_band: float  # by which they may be too low, as a fraction
    seconds_band_below: float  # by which they may be too high
    run_on: str  # the GPU whose run it is taken from

    @property
    def fits(self) -> bool:
        """Whether it runs as predicted."""
        return self.answer in (FITS, TIGHT)

    @property
    def allocated_need_bytes(self) -> int:
        """The need without what PyTorch caches, and gives back when the GPU is full."""
        return self.needed_bytes - self.peak_reserved_bytes + self.peak_allocated_bytes


def profile_on_gpus(
    scenario: Scenario,
    gpus: str | Sequence[str | GpuSpec] = ALL,
    *,
    report: Report | None = None,
) -> tuple[OnGpu, ...]:
    """Return what a scenario needs on each of many GPUs, and whether it fits; the smallest GPU first.

    Args:
        scenario: The scenario; its own GPU does not matter.
        gpus: "all" for every known GPU, names with commas between, or a list of names or `GpuSpec`s.
        report: Called with each step as it begins.

    Raises:
        InputError: if the model, a GPU or an argument of the call cannot be used, or the scenario has a capacity.

    Example:
        >>> [one.gpu for one in profile_on_gpus(Scenario(model="sdxl-base")) if one.fits][0]
        'rtx-2060'
    """
    instead = "write profiler.Scenario(model='sdxl-base')"
    check_given(scenario, Scenario, to="profile_on_gpus()", instead=instead)
    if scenario.capacity is not None:
        raise InputError("a capacity belongs to one GPU: drop it, or name a single GPU")
    named = [_as_it_runs(scenario, one) for one in gpus_named(gpus)]
    rows = dict(_rows(scenario, named, report))
    return tuple(rows[place] for place in range(len(named)))


def gpus_named(gpus: str | Sequence[str | GpuSpec]) -> tuple[GpuSpec, ...]:
    """Return the GPUs that are named, as for `profile_on_gpus`; each once, the smallest first.

    Raises:
        InputError: if one is unknown, or none is named.
    """
    check_given(
        gpus, str | list | tuple, to="profile_on_gpus()", instead="write 'all', or a list of names"
    )
    words = [word.strip() for word in gpus.split(",")] if isinstance(gpus, str) else gpus
    if words == [ALL]:
        return gpu_specs()
    chosen: list[GpuSpec] = []
    for word in words:
        one = gpu_spec_of(word)
        if one not in chosen:
            chosen.append(one)
    if not chosen:
        raise InputError("no GPU is named: write all, or names of `vram list gpus`")
    return tuple(sorted(chosen, key=lambda one: (one.capacity_bytes, one.memory_bytes_per_second)))


def _as_it_runs(scenario: Scenario, one: GpuSpec) -> GpuSpec:
    """Return a GPU as the scenario runs on it: beside its host, with what was measured on it."""
    launch = scenario.host_launch
    return as_measured(one if launch is None else one.with_host_launch(launch))


def _rows(
    scenario: Scenario, named: list[GpuSpec], report: Report | None
) -> Iterator[tuple[int, OnGpu]]:
    """Yield the place of each GPU among those named, and its row."""
    from profiler.virtual.other_gpus import comparable

    waiting = list(range(len(named)))
    while waiting:
        kind = comparable(named[waiting[0]])
        places = [place for place in waiting if comparable(named[place]) == kind]
        telling = _numbered(report, named[places[0]], len(named) - len(waiting), len(named))
        shared = _SharedRun.of(scenario, [named[place] for place in places], telling)
        for index, row in shared.rows(telling):
            waiting.remove(places[index])
            yield places[index], row


def _numbered(report: Report | None, on: GpuSpec, done: int, count: int) -> Report | None:
    if report is None or count == 1:
        return report
    return lambda line: report(f"{line} on {on.key}; {done} of {count} GPUs done")


@dataclass(frozen=True)
class _SharedRun:
    """A run with unlimited memory on the first of several GPUs."""

    scenario: Scenario
    gpus: list[GpuSpec]
    profile: Profile
    others: OtherGpus

    @classmethod
    def of(cls, scenario: Scenario, gpus: list[GpuSpec], report: Report | None) -> _SharedRun:
        from profiler.virtual.other_gpus import OtherGpus

        others = OtherGpus(gpus[1:])
        unlimited = gpus[0].with_capacity(TIB)
        return cls(
            scenario, gpus, profile_on(scenario, unlimited, others=others, report=report), others
        )

    def rows(self, report: Report | None) -> Iterator[tuple[int, OnGpu]]:
        """Yield the position and row of each GPU that this run, or one of its own, answers for."""
        alone = self.others.own_runs or not self.profile.complete or self.gpus[0].unified_memory
        for index in range(len(self.gpus)):
            if alone or index - 1 not in self.others.unlike:
                yield index, self._own_row(index, report) if alone else self._row(index, report)

    def _row(self, index: int, report: Report | None) -> OnGpu:
        assert self.others.trace is not None
        spec = self.gpus[index]
        limit_bytes = spec.capacity_bytes - spec.context_bytes
        # Whatever is rounded or cached, what was requested must be there, but for workspaces, which may be smaller.
        least_bytes = self.others.trace.requested_bytes - self.others.largest_workspace_bytes
        if least_bytes > limit_bytes:
            return self._too_large(index)
        if self.others.reserved_bytes > limit_bytes:
            return self._own_row(index, report)
        row = _row_of(spec, self._on(spec), self.gpus[0].key)
        return row if index == 0 else self._timed(row, index - 1)

    def _own_row(self, index: int, report: Report | None) -> OnGpu:
        """Return the answer of a run on the GPU itself."""
        spec = self.gpus[index]
        try:
            found = profile_on(self.scenario, spec, report=report)
        except FindingError:  # it ran out of memory before its call
            return self._too_large(index)
        row = _row_of(spec, found, spec.key)
        return self._too_large(index, found) if row.answer == DOES_NOT_FIT else row

    def _too_large(self, index: int, failed: Profile | None = None) -> OnGpu:
        """Return the row of a GPU on which it does not fit, where `failed` ran if that was tried."""
        spec = self.gpus[index]
        row = _row_of(spec, self._on(spec), self.gpus[0].key)
        needed_bytes = row.allocated_need_bytes
        if (
            needed_bytes <= spec.capacity_bytes
        ):  # the free memory is in pieces, or loading takes more
            needed_bytes = spec.capacity_bytes + _missing_bytes(failed)
        return replace(
            row,
            answer=DOES_NOT_FIT,
            needed_bytes=needed_bytes,
            spare_bytes=spec.capacity_bytes - needed_bytes,
            seconds=None,
            seconds_band=0.0,
            seconds_band_below=0.0,
        )

    def _on(self, spec: GpuSpec) -> Profile:
        """Return the profile with another GPU, on which the same was allocated."""
        totals = self.profile.totals
        device_bytes = spec.context_bytes + totals.peak_reserved_bytes
        gpu = replace(
            self.profile.gpu, capacity_bytes=spec.capacity_bytes, context_bytes=spec.context_bytes
        )
        return replace(self.profile, gpu=gpu, totals=replace(totals, device_bytes=device_bytes))

    def _timed(self, row: OnGpu, other: int) -> OnGpu:
        """Return the row with the seconds of another GPU than the one that ran."""
        trace = self.others.trace
        assert trace is not None
        ends = [event for event in self.profile.events if event.kind in ("begin", "end")]
        there = [
            event._replace(start_seconds=trace.seconds_at[event.start_seconds][other])
            for event in ends
        ]
        above, below = trace.bands[other]
        return replace(
            row, seconds=sum(call_seconds(there)), seconds_band=above, seconds_band_below=below
        )


def _missing_bytes(failed: Profile | None) -> int:
    """Return how much a request lacked, at least one byte."""
    failure = None if failed is None else failed.failure
    if failure is None or failure.requested_bytes is None or failure.free_bytes is None:
        return 1
    return max(failure.requested_bytes - failure.free_bytes, 1)


def _row_of(spec: GpuSpec, profile: Profile, run_on: str) -> OnGpu:
    told = verdict(profile)
    fits = told.answer in (FITS, TIGHT)
    return OnGpu(
        gpu=spec.key,
        name=spec.name,
        capacity_bytes=spec.capacity_bytes,
        answer=told.answer,
        needed_bytes=told.needed_bytes,
        spare_bytes=told.spare_bytes,
        peak_allocated_bytes=profile.totals.peak_allocated_bytes,
        peak_reserved_bytes=profile.totals.peak_reserved_bytes,
        seconds=profile.totals.seconds if fits else None,
        seconds_band=profile.seconds_band if fits else 0.0,
        seconds_band_below=profile.seconds_band_below if fits else 0.0,
        run_on=run_on,
    )
