"""`calibrate`: measures the GPU at hand, operation by operation, and keeps a table that predictions then use.

The table is written after each model, completely or not at all, and what it holds is not measured again: an interrupted
run continues where it stopped.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from profiler.calibrating import machine
from profiler.calibrating.kernels import measure
from profiler.calibrating.operations import Operation, operations_of
from profiler.errors import InputError, ProfilerError
from profiler.gpus import calibration, nvml
from profiler.gpus.calibration_table import Calibration, load, save
from profiler.gpus.hardware import GpuSpec, choose_gpu_spec
from profiler.sizing.scenario import Scenario
from profiler.virtual import VirtualGPU

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The result of a run of `calibrate`."""

    table: Calibration
    path: Path | None  # None if nothing was to be written
    measured: int  # operations measured in this run
    skipped: dict[str, str]  # model to the reason why its operations are not known
    left: tuple[str, ...]  # models for which there was no time

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        table = self.table
        return {
            "schema_version": 1,
            "card": table.gpu,
            "compute_capability": list(table.compute_capability),
            "date": table.date,
            "versions": table.versions,
            "dry": table.dry,
            "path": None if self.path is None else str(self.path),
            "operations": len(table.kernels),
            "measured": self.measured,
            "failed": table.failed,
            "skipped": self.skipped,
            "left": list(self.left),
            "context_bytes": table.context_bytes,
            "launch_seconds": table.launch_seconds,
            "copies": [vars(copy) for copy in table.copies],
        }


def calibrate(
    scenarios: Iterable[Scenario],
    *,
    output: Path | None = None,
    dry: bool = False,
    gpu: str | None = None,
    budget_seconds: float | None = None,
    report: Report | None = None,
) -> Calibrated:
    """Measure the GPU at hand and return its table.

    Args:
        scenarios: supply the operations, which depend on their mode and call; their GPU plays no part.
        output: the path to keep the table at; the user's own folder if not given, not kept at all in a dry run.
        dry: try it on a virtual GPU, which stands in for the real one. Predictions never use such a table.
        gpu: the virtual GPU of a dry run.
        budget_seconds: stop before the next operation once this time is over.
        report: called with a line for each thing that is being done.

    Raises:
        InputError: if there is no GPU, `gpu` is given for a real one, or `output` is of another GPU or not writable.
    """
    deadline = time.monotonic() + (float("inf") if budget_seconds is None else budget_seconds)
    if not dry:
        _check_real(gpu)
    with _stage(dry, gpu) as here:
        fresh = _fresh_table(here, dry=dry)
    path = output if output is not None or dry else calibration.own_path(fresh)
    run = _Run(here, path, dry, deadline, report)
    run.table = _continued(fresh, path)
    run.measure_machine()
    for scenario in scenarios:
        run.measure_scenario(scenario)
    calibration.forget()
    return Calibrated(
        table=run.table,
        path=path,
        measured=run.measured,
        skipped=run.skipped,
        left=tuple(run.left),
    )


class _Run:
    """One run of `calibrate`: the table so far, and the time that is left."""

    table: Calibration

    def __init__(
        self, here: GpuSpec, path: Path | None, dry: bool, deadline: float, report: Report | None
    ) -> None:
        self._here = here
        self._path = path
        self._dry = dry
        self._deadline = deadline
        self._report = report
        self.measured = 0
        self.skipped: dict[str, str] = {}
        self.left: list[str] = []

    def measure_machine(self) -> None:
        """Measure context, copies and launches, unless the table already holds them."""
        if self.table.context_bytes:
            return
        self._tell("measuring the link")
        # The memory of other processes is read before this one has a context.
        before_bytes = 0 if self._dry else nvml.used_bytes() or 0
        with _stage(self._dry, self._here.key):
            self.table = replace(
                self.table,
                context_bytes=machine.measure_context(before_bytes),
                launch_seconds=machine.measure_launch(),
                copies=machine.measure_copies(),
            )
        self._keep()

    def measure_scenario(self, scenario: Scenario) -> None:
        """Measure those operations of one scenario that the table lacks, as far as time allows."""
        if time.monotonic() >= self._deadline:
            self.left.append(scenario.model)
            return
        self._tell(f"running {scenario.model} on the virtual GPU")
        try:
            operations = operations_of(scenario, self._here)
        except ProfilerError as error:
            self.skipped[scenario.model] = str(error)
            return
        with _stage(self._dry, self._here.key):
            done = self._measure_operations(scenario.model, operations)
        self._keep()
        if not done:
            self.left.append(scenario.model)

    def _measure_operations(self, model: str, operations: dict[str, Operation]) -> bool:
        table = self.table
        missing = [
            operation
            for signature, operation in operations.items()
            if signature not in table.kernels and signature not in table.failed
        ]
        for index, operation in enumerate(missing):
            if time.monotonic() >= self._deadline:
                return False
            self._tell(f"{model}: operation {index + 1} of {len(missing)}")
            try:
                table.kernels[operation.signature] = measure(operation)
                self.measured += 1
            except RuntimeError as error:  # out of memory included
                table.failed[operation.signature] = str(error).strip().partition("\n")[0]
        return True

    def _keep(self) -> None:
        if self._path is not None:
            save(self.table, self._path)

    def _tell(self, line: str) -> None:
        if self._report is not None:
            self._report(line)


def _check_real(gpu: str | None) -> None:
    if not torch.cuda.is_available():
        raise InputError(
            "torch sees no GPU to measure: run this where one is, or try it with --dry, "
            "which lets a virtual GPU stand in"
        )
    if gpu is not None:
        raise InputError(
            f"--gpu {gpu} names a virtual GPU: drop it to measure the real one, or add --dry"
        )


@contextmanager
def _stage(dry: bool, gpu: str | None) -> Iterator[GpuSpec]:
    """Yield the GPU at hand while it can be measured: torch's own, or a virtual one that stands in."""
    if not dry:
        yield machine.gpu_at_hand()
        torch.cuda.empty_cache()
        return
    with VirtualGPU(choose_gpu_spec(gpu)) as virtual:
        yield virtual.spec


def _fresh_table(here: GpuSpec, *, dry: bool) -> Calibration:
    return Calibration(
        gpu=here.name,
        compute_capability=here.compute_capability,
        total_memory_bytes=here.capacity_bytes,
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        versions=machine.versions(),
        dry=dry,
    )


def _continued(fresh: Calibration, path: Path | None) -> Calibration:
    """Return the table at `path` to continue, or else the fresh one.

    Raises:
        InputError: if the file there is no table, or one of another GPU or of other versions.
    """
    from profiler.atomic import check_writable

    if path is None:
        return fresh
    check_writable(path)
    if not path.exists():
        return fresh
    known = load(path)
    for what, name in (("GPU", "gpu"), ("dry", "dry"), ("versions", "versions")):
        was, now = getattr(known, name), getattr(fresh, name)
        if was != now:
            raise InputError(
                f"{path} was measured with {what} {was}, here it is {now}: name another file"
            )
    return known
