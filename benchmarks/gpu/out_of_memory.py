"""Makes runs fail for memory on the CUDA GPU at hand, each somewhere else, and looks at what is left.

Run: python benchmarks/gpu/out_of_memory.py [--model sdxl-base] [--failures 20] [--budget-seconds 540] [-o FILE.json]

Where a component is first moved, cast or entered, the allocator is held half-way between what is allocated then and
what that takes (`set_per_process_memory_fraction`), with everything on the GPU, under model offload and under
sequential offload. Each failure has a process of its own. The process must survive, the profile must say who failed and
when, its holders must add up to what is allocated and its weights be those that are there; then the plan that fits what
the run was held to (or the least in which there is a plan) is applied, and two calls must get through.

Weights are random, so nothing is downloaded. Without -o the file is benchmarks/results/CARD/out_of_memory.json; a
failure that it holds is not forced again. `--dry` does all of it on a virtual GPU: what is said and what works is the
same there, and such a file is never a result.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import at_hand
import forced_failures
from apart import Apart, FailedError
from case_record import Kind
from session import Session, add_options

from profiler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from forced_failures import Moment

    from profiler.planning import Plan
    from profiler.record.profile import Profile

FAILURES = 20
CLAIMS = ("who_and_when", "adds_up", "weights_counted", "works_after")


def chosen(by_mode: list[list[Moment]], count: int) -> list[Moment]:
    """Return so many moments, from each mode in turn."""
    turns = chain.from_iterable(zip_longest(*by_mode))
    return [moment for moment in turns if moment is not None][:count]


def summary_of(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many failures were forced, and of how many each claim holds."""
    run = [case for case in cases if "failed" not in case]
    return {
        "cases": len(cases),
        "survived": len(run),
        "failed_as_forced": sum(not case["complete"] for case in run),
        **{claim: sum(bool(case[claim]) for case in run) for claim in CLAIMS},
    }


OUT_OF_MEMORY = Kind(
    name="vram-profiler out of memory",
    told="failures on purpose",
    schema_version=1,
    file="out_of_memory.json",
    summary_of=summary_of,
)


class Failures:
    """One run of this script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.session = Session(OUT_OF_MEMORY, options)
        self._model = options.model
        self._call = {"num_inference_steps": options.steps}
        self._whole: Profile | None = None  # of model offload, from which plans are made
        self._least_bytes = 0
        self._plans: dict[int, Plan] = {}  # by budget

    def moments(self, count: int) -> list[Moment]:
        """Return where the runs are made to fail."""
        about = (self._model, self._call)
        running = [
            Apart(forced_failures.moments_of, *about, mode, self.session.spec)
            for mode in forced_failures.MODES
        ]
        return chosen([one.result(seconds=self.session.limit()) for one in running], count)

    def force(self, moment: Moment, limit: Callable[[], float]) -> dict[str, Any]:
        """Return the entry of a failure."""
        about = (self._model, self._call)
        plan = self._plan(moment, limit)
        found = Apart(forced_failures.fail, *about, moment, plan, self.session.stand_in)
        held = {"model": self._model, **moment._asdict(), "limit_bytes": moment.limit_bytes}
        return {**held, **found.result(seconds=limit())}

    def _plan(self, moment: Moment, limit: Callable[[], float]) -> Plan:
        """Return the best plan in what a run is held to, or in the least in which there is one."""
        if self._whole is None:
            about = (self._model, self._call, "model", self.session.spec)
            self._whole = Apart(at_hand.run_without_limit, *about).result(seconds=limit())
            least = Apart(forced_failures.least_budget_bytes, self._whole)
            self._least_bytes = least.result(seconds=limit())
        held_bytes = moment.limit_bytes + self._whole.gpu.context_bytes
        budget_bytes = max(held_bytes, self._least_bytes)
        if budget_bytes not in self._plans:
            made = Apart(forced_failures.plan_within, self._whole, budget_bytes)
            self._plans[budget_bytes] = made.result(seconds=limit())
        return self._plans[budget_bytes]


def told(name: str, entry: dict[str, Any]) -> str:
    """Return the line of a failure."""
    if "failed" in entry:
        return f"{name:44} did not come back: {entry['failed']}"
    claims = ", ".join(f"{claim}: {'yes' if entry[claim] else 'NO'}" for claim in CLAIMS)
    ended = "got through" if entry["complete"] else entry.get("said") or entry["error"]
    return f"{name:44} {ended}; {claims} {entry.get('error_after', '')}"


def main(arguments: list[str] | None = None) -> None:
    """Force the failures that the file lacks; fail where a claim does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/gpu/out_of_memory.py --budget-seconds 540",
    )
    add_options(parser)
    parser.add_argument("--model", default="sdxl-base", help="a catalogue name or a folder")
    parser.add_argument("--failures", type=int, default=FAILURES, help="how many, 20 by default")
    parser.add_argument("--steps", type=int, default=2, help="denoise steps of a call")
    options = parser.parse_args(arguments)
    try:
        failures = Failures(options)
        moments = {
            f"{options.model}:{moment.id}": moment for moment in failures.moments(options.failures)
        }
        wanted = {name: one for name, one in moments.items() if options.only in name}
        if options.list:
            print("\n".join(wanted))
            return
        failures.session.run(
            {name: partial(failures.force, one) for name, one in wanted.items()}, told=told
        )
    except (InputError, FailedError) as error:
        raise SystemExit(f"out_of_memory: {error}") from error
    summary = failures.session.record.get("summary", {})
    print(", ".join(f"{name} {figure}" for name, figure in summary.items()))
    if any(figure != summary["cases"] for figure in summary.values()):
        sys.exit("not every claim holds")


if __name__ == "__main__":
    main()
