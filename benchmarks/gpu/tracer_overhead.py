"""What the tracer costs on the CUDA GPU at hand, for SDXL at 1024 x 1024 and 20 steps: seconds and memory.

Run: python benchmarks/gpu/tracer_overhead.py [--pairs 10] [--budget-seconds 540] [-o FILE.json]

Weights are random, so nothing is downloaded. Each mode runs in a process of its own: calls without and with the tracer
in turn, waited for; the ratio is the median of each to those around it, and beside it stands what plain calls are to
plain ones. Limits: a ratio of 1.01, 1 MB of host memory for every 1000 events, nothing on the device. Without -o the
file is benchmarks/results/CARD/tracer_overhead.json; a mode that it holds is not run again.
`benchmarks/tracer_overhead.py` is the same beside real computing on the CPU.

`--dry` tries all of this on a virtual GPU; its figures mean nothing, and such a file is never a result.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import above  # noqa: F401  # the last one is up there
from apart import Apart, FailedError
from case_record import Kind
from session import Session, add_options
from tracer_overhead_cases import MODES, measure
from tracing_cost import LEAST_PAIRS

from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_RATIO = 1.01
LIMIT_BYTES = 1_000_000


def summary_of(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the highest ratio and memory of the modes that ran."""
    run = [case for case in cases if "ratio" in case]
    return {
        "cases": len(cases),
        "run": len(run),
        **{
            name: max((case[name] for case in run), default=None)
            for name in ("ratio", "host_bytes_per_1000_events", "device_peak_bytes")
        },
    }


OVERHEAD = Kind(
    name="vram-profiler tracer overhead",
    told="the tracer's cost",
    schema_version=1,
    file="tracer_overhead.json",
    summary_of=summary_of,
)


def _told(name: str, entry: dict[str, Any]) -> str:
    if "failed" in entry:
        return f"{name:28} failed: {entry['failed']}"
    low, high = entry["ratio_quartiles"]
    device = max(entry[f"device_{what}_bytes"] for what in ("peak", "reserved", "stays"))
    return (
        f"{name:28} traced / plain {entry['ratio']:.4f} (quartiles {low:.4f} to {high:.4f}, {entry['pairs']} calls "
        f"of {entry['plain_seconds']:.2f} s, {entry['events']} events), plain / plain {entry['noise']:.4f}, around it "
        f"{entry['attaching_seconds']:.3f} s; host {entry['host_bytes_per_1000_events'] / 1e6:.2f} MB "
        f"for 1000 events; device {device} bytes"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure the modes that the file lacks, and print a line for each; fail where one is over its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/gpu/tracer_overhead.py --budget-seconds 540",
    )
    add_options(parser)
    parser.add_argument("--model", default="sdxl-base", help="a catalogue name or a folder")
    parser.add_argument(
        "--pairs", type=int, default=10, help=f"traced calls, at least {LEAST_PAIRS}"
    )
    parser.add_argument("--steps", type=int, default=20, help="denoise steps of a call")
    options = parser.parse_args(arguments)
    if options.pairs < LEAST_PAIRS:
        parser.error(f"--pairs {options.pairs}: at least {LEAST_PAIRS} give quartiles")
    modes = {f"{options.model}:{mode}": mode for mode in MODES if options.only in mode}
    if options.list:
        print("\n".join(modes))
        return
    try:
        session = Session(OVERHEAD, options)
        cases = {name: partial(_measured, options, mode, session) for name, mode in modes.items()}
        session.run(cases, told=_told)
    except (InputError, FailedError) as error:
        raise SystemExit(f"tracer_overhead: {error}") from error
    if told := [] if session.stand_in else over(session.record["summary"]):
        sys.exit("\n".join(told))


def _measured(
    options: argparse.Namespace, mode: str, session: Session, limit: Callable[[], float]
) -> dict[str, Any]:
    what = (options.model, mode, options.pairs, options.steps, session.stand_in)
    found: dict[str, Any] = Apart(measure, *what).result(seconds=limit())
    return found


def over(summary: dict[str, Any]) -> list[str]:
    """Return what exceeds its limit, a line each."""
    limits = {
        "ratio": LIMIT_RATIO,
        "host_bytes_per_1000_events": LIMIT_BYTES,
        "device_peak_bytes": 0,
    }
    return [
        f"{name}: {summary[name]:,.4g} is over {limit:,}"
        for name, limit in limits.items()
        if summary[name] is not None and summary[name] > limit
    ]


if __name__ == "__main__":
    main()
