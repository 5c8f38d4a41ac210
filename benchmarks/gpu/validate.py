"""Runs catalogue pipelines at full size on the CUDA GPU at hand, beside the prediction for that GPU.

Run: python benchmarks/gpu/validate.py [--only PART_OF_AN_ID] [--budget-seconds 540] [-o FILE.json]

Weights are random, so nothing is downloaded. Every case runs in a process of its own: the placement and two calls of a
few steps under the tracer, then one more call with the allocator held to what was promised
(`set_per_process_memory_fraction`). The file is written after each case, whole or not at all; a case that it holds is
not run again, so the same command goes on where it was cut off. Without -o it is
benchmarks/results/CARD/validate.json.

`--dry` tries all of this on a virtual GPU, which stands in for the real one; its figures mean nothing, and such a file
is never a result. `--list` prints the cases.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import validation_cases
import validation_record
from apart import Apart, FailedError
from session import Session, add_options
from validation_record import VALIDATION

from profiler.errors import InputError
from profiler.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from profiler.gpus.hardware import GpuSpec


class Validation:
    """One run of this script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.session = Session(VALIDATION, options)
        self._host_bytes = options.host_memory

    def run(self, cases: list[validation_cases.Case]) -> None:
        """Run the cases that the record lacks, predicting the next one while one is measured."""
        missing = set(self.session.waiting(case.id for case in cases))
        waiting = [case for case in cases if case.id in missing]
        upcoming = self._start(waiting[0]) if waiting else None
        for index, case in enumerate(waiting):
            assert upcoming is not None
            if self.session.is_late(len(waiting) - index):
                upcoming.stop()
                return
            current = upcoming
            began = time.monotonic()
            prediction, entry = self._predicted(case, current)
            following = waiting[index + 1 : index + 2]
            upcoming = self._start(following[0]) if following else None
            if prediction is not None:
                self._measure(case, prediction, entry)
            entry["wall_seconds"] = round(time.monotonic() - began, 1)
            self.session.keep(case.id, entry)
            print(_told(case.id, entry), flush=True)

    def _start(self, case: validation_cases.Case) -> Apart:
        return Apart(predict_case, case, self.session.spec)

    def _predicted(self, case: validation_cases.Case, running: Apart) -> tuple[Any, dict[str, Any]]:
        entry = case.as_json()
        try:
            prediction = running.result(seconds=self.session.limit())
        except FailedError as error:
            return None, {**entry, "failed": f"prediction: {error}"}
        entry["predicted"] = prediction.figures
        needed = prediction.figures.get("weight_bytes", 0)
        needed += prediction.figures.get("host_pinned_bytes", 0)
        if needed > self._host_bytes:
            return None, {**entry, "skipped": f"needs {format_bytes(needed)} of host memory"}
        return prediction, entry

    def _measure(self, case: validation_cases.Case, prediction: Any, entry: dict[str, Any]) -> None:
        try:
            measured = Apart(measure_case, case, prediction, self.session.stand_in).result(
                seconds=self.session.limit()
            )
        except FailedError as error:
            entry["failed"] = f"measurement: {error}"
            return
        entry["measured"] = measured
        entry["errors"] = validation_record.errors_of(prediction.figures, measured)


# What runs in the other processes: torch is imported there only.


def predict_case(case: validation_cases.Case, on: GpuSpec) -> Any:
    """Return the prediction of a case."""
    import validation_runs

    return validation_runs.predict(case, on)


def measure_case(
    case: validation_cases.Case, prediction: Any, stand_in: GpuSpec | None
) -> dict[str, Any]:
    """Return the measurement of a case."""
    import validation_runs

    return validation_runs.measure(case, prediction, stand_in)


def _told(name: str, entry: dict[str, Any]) -> str:
    for word in ("failed", "skipped"):
        if word in entry:
            return f"{name:40} {word}: {entry[word]}"
    errors = entry["errors"]
    figures = "  ".join(
        f"{key} {errors[key]:+.1%}"
        for key in ("allocated", "reserved", "device", "seconds")
        if errors[key] is not None
    )
    same = "same moves" if errors["equal"]["moves_sha256"] else "OTHER MOVES"
    held = entry["measured"].get("held", {"fits": None})["fits"]
    promise = {True: "held", False: "DID NOT HOLD", None: "no promise"}[held]
    return f"{name:40} {figures}  {same}  {promise}  ({entry['wall_seconds']} s)"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--models", help="other models than the chosen ones, comma between")
    parser.add_argument("--host-memory", type=parse_bytes, default=_host_bytes(), help="as 128GiB")
    return parser.parse_args(arguments)


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main(arguments: list[str] | None = None) -> None:
    """Run the cases and print a line for each."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    models = tuple(options.models.split(",")) if options.models else validation_cases.MODELS
    cases = [case for case in validation_cases.all_cases(models) if options.only in case.id]
    if options.list:
        print("\n".join(case.id for case in cases))
        return
    try:
        validation = Validation(options)
        validation.run(cases)
    except (InputError, FailedError) as error:
        raise SystemExit(f"validate: {error}") from error
    print(json.dumps(validation.session.record.get("summary", {})))


if __name__ == "__main__":
    main()
