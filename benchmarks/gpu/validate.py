"""Runs catalogue pipelines at full size on the CUDA card at hand, beside the prediction for that card.

Run: python benchmarks/gpu/validate.py [--only PART_OF_AN_ID] [--budget-seconds 540] [-o FILE.json]

Weights are random, so nothing is downloaded. Every case runs in a process of its own: the placement and two calls of a
few steps under the tracer, then one more call with the allocator held to what was promised
(`set_per_process_memory_fraction`). The file is written after each case, whole or not at all; a case that it holds is
not run again, so the same command goes on where it was cut off. Without -o it is
benchmarks/results/CARD/validate.json.

`--dry` tries all of this on a virtual card, which stands in for the real one; its figures mean nothing, and such a file
is never a result. `--list` prints the cases.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import validation_cases
import validation_record
from apart import Apart, FailedError

from profiler.errors import InputError
from profiler.hardware import Card, card, card_of_properties
from profiler.units import format_bytes, parse_bytes

ROOT = Path(__file__).resolve().parents[2]
DRY_CARD = "h200"
_SECONDS_TO_IMPORT = 240.0


class Validation:
    """One run of this script: the record so far, and how it goes on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._stand_in = card(options.card) if options.dry else None
        self._deadline = time.monotonic() + options.budget_seconds
        self._case_seconds = options.case_seconds
        self._host_bytes = options.host_memory
        self._again = options.again
        self._output: Path | None = options.output
        if self._stand_in is not None and self._output is None:
            raise InputError("a dry run keeps nothing among the results: name a file with -o")
        if self._output is not None and self._output.exists():
            validation_record.load(self._output)  # a wrong file is told before any work
        about = Apart(about_here, self._stand_in).result(seconds=_SECONDS_TO_IMPORT)
        self._card: Card = about.pop("virtual_card")
        self.path = self._output or self._own_path()
        self.record = self._continued(about)

    def run(self, cases: list[validation_cases.Case]) -> None:
        """Run the cases that the record lacks, predicting the next one while one is measured."""
        waiting = [case for case in cases if not self._is_done(case)]
        upcoming = self._start(waiting[0]) if waiting else None
        for index, case in enumerate(waiting):
            assert upcoming is not None
            if self._left() <= 0:
                upcoming.stop()
                print(f"no time for {len(waiting) - index} cases: the same command goes on")
                return
            current = upcoming
            began = time.monotonic()
            prediction, entry = self._predicted(case, current)
            following = waiting[index + 1 : index + 2]
            upcoming = self._start(following[0]) if following else None
            if prediction is not None:
                self._measure(case, prediction, entry)
            entry["wall_seconds"] = round(time.monotonic() - began, 1)
            self.record["cases"][case.id] = entry
            validation_record.save(self.record, self.path)
            print(_told(case.id, entry), flush=True)

    def _start(self, case: validation_cases.Case) -> Apart:
        return Apart(predict_case, case, self._card)

    def _predicted(self, case: validation_cases.Case, running: Apart) -> tuple[Any, dict[str, Any]]:
        entry = case.as_json()
        try:
            prediction = running.result(seconds=self._limit())
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
            measured = Apart(measure_case, case, prediction, self._stand_in).result(
                seconds=self._limit()
            )
        except FailedError as error:
            entry["failed"] = f"measurement: {error}"
            return
        entry["measured"] = measured
        entry["errors"] = validation_record.errors_of(prediction.figures, measured)

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _limit(self) -> float:
        return min(self._case_seconds, self._left())

    def _is_done(self, case: validation_cases.Case) -> bool:
        entry = self.record["cases"].get(case.id)
        return entry is not None and not (self._again and "failed" in entry)

    def _own_path(self) -> Path:
        name = re.sub(r"[^a-z0-9]+", "-", self._card.name.lower()).strip("-")
        return ROOT / "benchmarks" / "results" / name / "validate.json"

    def _continued(self, about: dict[str, Any]) -> dict[str, Any]:
        fresh = {
            "kind": validation_record.KIND,
            "schema_version": validation_record.SCHEMA_VERSION,
            "dry": self._stand_in is not None,
            "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
            **about,
            "cases": {},
        }
        if not self.path.exists():
            return fresh
        known = validation_record.load(self.path)
        for what in ("dry", "card", "versions"):
            if known[what] != fresh[what]:
                raise InputError(
                    f"{self.path} was made with {what} {known[what]}, here it is {fresh[what]}: "
                    "name another file with -o"
                )
        return known


# What runs in the other processes: torch is imported there only.


def about_here(stand_in: Card | None) -> dict[str, Any]:
    """Return the machine's record, and the card to predict for."""
    import torch
    import validation_runs

    from profiler.virtual import VirtualGPU

    if stand_in is not None:
        with VirtualGPU(stand_in):
            return {**validation_runs.about_this_machine(), "virtual_card": stand_in}
    if not torch.cuda.is_available():
        raise InputError("torch sees no GPU: run this where one is, or try it with --dry")
    properties = torch.cuda.get_device_properties(0)
    return {**validation_runs.about_this_machine(), "virtual_card": card_of_properties(properties)}


def predict_case(case: validation_cases.Case, on: Card) -> Any:
    """Return the prediction of a case."""
    import validation_runs

    return validation_runs.predict(case, on)


def measure_case(
    case: validation_cases.Case, prediction: Any, stand_in: Card | None
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
    parser.add_argument(
        "--only", default="", help="cases whose id contains this (--list shows them)"
    )
    parser.add_argument("--models", help="other models than the chosen ones, comma between")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file; it is continued")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument(
        "--case-seconds", type=float, default=300.0, help="give a case up after this"
    )
    parser.add_argument("--host-memory", type=parse_bytes, default=_host_bytes(), help="as 128GiB")
    parser.add_argument("--again", action="store_true", help="run cases again that failed")
    parser.add_argument("--dry", action="store_true", help="try it on a virtual card")
    parser.add_argument("--card", default=DRY_CARD, help="with --dry: which")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
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
    print(json.dumps(validation.record.get("summary", {})))


if __name__ == "__main__":
    main()
