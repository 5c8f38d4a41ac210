"""Compares the tracer's events on the stand-in, through real CUDA calls, with those on the virtual GPU, one by one.

Usage: python tests/oracle/oracle_events.py [--only PART], or `make oracle`.

Everything that an event says is compared but its times and what the host's memory holds: kind, component, bytes, where
from and where to, who asked, and what is allocated and reserved before, during and after it. So are the visits to parts
of components, where a trace of a GPU looks at them. Which of several free blocks a request takes, and so how much is
held for it, follows from addresses (README.md); so events that differ in such levels alone are told apart. Exits with
4 where what happened differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from oracle_cases import CALLS, EVENT_CASES, Case

# Times, and of host memory what is pageable: a virtual GPU counts it, and a trace reads what the process has.
UNCOMPARED = frozenset(
    {
        "start_seconds",
        "seconds",
        "transfer_seconds",
        "exposed_transfer_seconds",
        "host_pageable_bytes",
        "host_peak_bytes",
        "inside",
    }
)
LEVELS = frozenset(
    {
        "lead_peak_bytes",
        "before_bytes",
        "peak_bytes",
        "after_bytes",
        "reserved_bytes",
        "resident_bytes",
        "host_pinned_bytes",
        "visits",
    }
)
VISIT = ("component", "part", "entering", "peak_bytes", "allocated_bytes")
LEVELS_APART = "equal but for levels"
SHOWN = 6  # differences of a case that are printed


def run(case: Case, weights: str) -> dict[str, Any]:
    """Return the events of placing a pipeline and calling it."""
    from oracle_indexing import watch_indexing
    from oracle_side import call_arguments, mode_of

    from profiler.libraries.placing import enable_mode
    from profiler.pipelines import load_pipeline
    from profiler.tracing import trace

    watch_indexing()
    pipe = load_pipeline(case.model, weights=weights)
    pipe.set_progress_bar_config(disable=True)
    arguments = call_arguments(pipe, case.model)
    tracing = trace(pipe)
    with suppress(RuntimeError), tracing:  # out of memory among them, which the profile tells
        enable_mode(pipe, mode_of(case.mode))
        for _ in range(CALLS):
            pipe(**arguments)
    profile = tracing.profile
    return {
        "source": profile.source,
        "events": [compared(event, profile.insides) for event in profile.events],
        "error": profile.error,
    }


def compared(event: Any, insides: Any) -> dict[str, Any]:
    """Return what is compared of an event; its visits are None where nobody looked at them."""
    found = {name: value for name, value in event._asdict().items() if name not in UNCOMPARED}
    visits = None if event.inside < 0 else insides[event.inside].visits
    return found | {"visits": visits and [[getattr(one, name) for name in VISIT] for one in visits]}


def differences(measured: dict[str, Any], predicted: dict[str, Any]) -> Iterator[str]:
    """Yield where the events of both sides differ, an entry each."""
    endings = [_kind_of_error(side["error"]) for side in (measured, predicted)]
    if endings[0] != endings[1]:
        yield f"ended with {endings[0]!r}, predicted {endings[1]!r}"
    counts = [len(side["events"]) for side in (measured, predicted)]
    if counts[0] != counts[1] or not counts[0]:
        yield f"{counts[0]} events, predicted {counts[1]}"
    for one, two in zip(measured["events"], predicted["events"], strict=False):
        off = [
            f"{name} {value!r}, predicted {two[name]!r}"
            for name, value in one.items()
            if name != "visits" and value != two[name]
        ]
        off += _visits_apart(one["visits"], two["visits"])
        if off:
            what = f"{one['kind']} of {one['component']} {one['group']}".rstrip()
            yield f"event {one['ordinal']}, {what}: {', '.join(off)}"


def verdict(measured: dict[str, Any], predicted: dict[str, Any]) -> str:
    """Return how far the events of both sides are equal."""
    if not any(differences(measured, predicted)):
        return "equal"
    happened = [
        [
            {key: value for key, value in event.items() if key not in LEVELS}
            for event in side["events"]
        ]
        for side in (measured, predicted)
    ]
    ended = _kind_of_error(measured["error"]) == _kind_of_error(predicted["error"])
    alike = ended and measured["events"] and happened[0] == happened[1]
    return LEVELS_APART if alike else "DIFFERENT"


def _kind_of_error(text: str) -> str:
    return text.partition(":")[0].partition(".")[0]


def _visits_apart(own: list[Any] | None, other: list[Any] | None) -> list[str]:
    if own is None or own == other:
        return []
    if other is None or len(own) != len(other):
        return [f"{len(own)} visits, predicted {len(other or ())}"]
    at, one, two = next(
        (at, *pair) for at, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1]
    )
    return [f"visit {at} of {len(own)} ({', '.join(VISIT)}): {one}, predicted {two}"]


def recorded(chosen: list[Case], folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what both sides say of each case."""
    from oracle import environment, set_up_sides

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for side, interpreter in set_up_sides().interpreters.items():
        own = folder / side
        own.mkdir()
        script = Path(__file__).with_name("oracle_side.py")
        command = [
            interpreter,
            str(script),
            side,
            str(own),
            *(case.name for case in chosen),
            "--events",
        ]
        subprocess.run(command, check=True, env=environment(), stderr=subprocess.DEVNULL)
        files = {case.name: own / f"{case.name.replace(' ', '_')}.json" for case in chosen}
        nothing: dict[str, Any] = {"events": []}
        found[side] = {name: nothing | json.loads(file.read_text()) for name, file in files.items()}
    return found


def main() -> None:
    """Run the cases on both sides and print which are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    chosen = [case for case in EVENT_CASES if options.only in case.name]
    with tempfile.TemporaryDirectory() as folder:
        found = recorded(chosen, Path(folder))
    tally: Counter[str] = Counter()
    for case in chosen:
        measured, predicted = (found[side][case.name] for side in ("oracle", "predicted"))
        apart = list(differences(measured, predicted))
        found_equal = verdict(measured, predicted)
        tally[found_equal] += 1
        tally["events"] += len(measured["events"])
        looked_at = sum(event["visits"] is not None for event in measured["events"])
        print(
            f"{case.name}: {len(measured['events'])} events, {looked_at} with visits: {found_equal}"
        )
        print("".join(f"  {one}\n" for one in apart[:SHOWN]), end="")
        if len(apart) > SHOWN:
            print(f"  and {len(apart) - SHOWN} more")
    print(
        f"{tally['equal']} of {len(chosen)} cases equal, {tally[LEVELS_APART]} {LEVELS_APART}; "
        f"{tally['events']} events"
    )
    if tally["DIFFERENT"]:
        raise SystemExit(4)


if __name__ == "__main__":
    main()
