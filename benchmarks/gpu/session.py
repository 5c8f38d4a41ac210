"""One run of a script on the GPU at hand: its options, the record that it goes on with, and when it must end.

Each case runs in a process of its own (`apart.py`). The file is written after each, whole or not at all; a case that
it holds is not run again, so the same command goes on where it was cut off. A dry run has a virtual GPU in the place
of the real one: its figures mean nothing, and such a file is never a result.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apart import Apart, FailedError

from profiler.errors import InputError
from profiler.gpus.hardware import GpuSpec, gpu_spec, gpu_spec_of_properties

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from case_record import Kind

ROOT = Path(__file__).resolve().parents[2]
DRY_GPU = "h200"
_SECONDS_TO_IMPORT = 240.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script here has."""
    parser.add_argument(
        "--only", default="", help="cases whose id contains this (--list shows them)"
    )
    parser.add_argument("-o", "--output", type=Path, help="the JSON file; it is continued")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="end after this")
    parser.add_argument(
        "--case-seconds", type=float, default=300.0, help="give a case up after this"
    )
    parser.add_argument("--again", action="store_true", help="run cases again that failed")
    parser.add_argument("--dry", action="store_true", help="try it on a virtual GPU")
    parser.add_argument("--gpu", default=DRY_GPU, help="with --dry: which")
    parser.add_argument("--list", action="store_true", help="print the cases and end")


class Session:
    """The record so far, and how it goes on.

    Attributes:
        stand_in: a dry run's virtual GPU; None on the real one.
        spec: what stands for the GPU at hand where something is predicted for it.
        path: the file.
        record: what it holds.

    Raises:
        InputError: if there is no GPU, or the file is of another GPU, of other versions, or no record.
    """

    def __init__(self, kind: Kind, options: argparse.Namespace) -> None:
        self.stand_in = gpu_spec(options.gpu) if options.dry else None
        self._kind = kind
        self._deadline = time.monotonic() + options.budget_seconds
        self._case_seconds = options.case_seconds
        self._again = options.again
        output: Path | None = options.output
        if self.stand_in is not None and output is None:
            raise InputError("a dry run keeps nothing among the results: name a file with -o")
        if output is not None and output.exists():
            kind.load(output)  # a wrong file is told before any work
        about = Apart(about_here, self.stand_in).result(seconds=_SECONDS_TO_IMPORT)
        self.spec: GpuSpec = about.pop("virtual_gpu")
        self.path = output or _own_path(self.spec, kind.file)
        self.record = self._continued(about)

    def waiting(self, ids: Iterable[str]) -> list[str]:
        """Return the ids of the cases that the record lacks."""
        return [one for one in ids if not self._is_done(one)]

    def keep(self, name: str, entry: dict[str, Any]) -> None:
        """Put a case into the file."""
        self.record["cases"][name] = entry
        self._kind.save(self.record, self.path)

    def run(
        self,
        cases: dict[str, Callable[[Callable[[], float]], dict[str, Any]]],
        *,
        told: Callable[[str, dict[str, Any]], str],
    ) -> None:
        """Run the cases that the record lacks one after the other, and print a line for each.

        Args:
            cases: returns the entry of each, by its id; given what tells how many seconds are left for it.
            told: returns the line.
        """
        waiting = self.waiting(cases)
        for index, name in enumerate(waiting):
            if self.is_late(len(waiting) - index):
                return
            began = time.monotonic()
            try:
                entry = cases[name](self.limit)
            except FailedError as error:
                entry = {"failed": str(error)}
            entry["wall_seconds"] = round(time.monotonic() - began, 1)
            self.keep(name, entry)
            print(told(name, entry), flush=True)

    def is_late(self, left: int) -> bool:
        """Whether there is no time for the cases that are left; says so."""
        late = self.limit() <= 0
        if late:
            print(f"no time for {left} cases: the same command goes on")
        return late

    def limit(self) -> float:
        """Return how many seconds a case has."""
        return min(self._case_seconds, self._deadline - time.monotonic())

    def _is_done(self, name: str) -> bool:
        entry = self.record["cases"].get(name)
        return entry is not None and not (self._again and "failed" in entry)

    def _continued(self, about: dict[str, Any]) -> dict[str, Any]:
        fresh = {
            "kind": self._kind.name,
            "schema_version": self._kind.schema_version,
            "dry": self.stand_in is not None,
            "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
            **about,
            "cases": {},
        }
        if not self.path.exists():
            return fresh
        known = self._kind.load(self.path)
        for what in ("dry", "card", "versions"):
            if known[what] != fresh[what]:
                raise InputError(
                    f"{self.path} was made with {what} {known[what]}, here it is {fresh[what]}: "
                    "name another file with -o"
                )
        return known


def _own_path(at_hand: GpuSpec, file: str) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", at_hand.name.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / name / file


def about_here(stand_in: GpuSpec | None) -> dict[str, Any]:
    """Return the machine's record, and the GPU to predict for. Runs in a process of its own: it imports torch."""
    import torch
    from at_hand import about_this_machine

    from profiler.virtual import VirtualGPU

    if stand_in is not None:
        with VirtualGPU(stand_in):
            return {**about_this_machine(), "virtual_gpu": stand_in}
    if not torch.cuda.is_available():
        raise InputError("torch sees no GPU: run this where one is, or try it with --dry")
    properties = torch.cuda.get_device_properties(0)
    return {**about_this_machine(), "virtual_gpu": gpu_spec_of_properties(properties)}
