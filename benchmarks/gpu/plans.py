"""Runs our plan and every other way to keep within a budget on the CUDA GPU at hand: seconds, peak and bytes.

Run: python benchmarks/gpu/plans.py [--models sdxl-turbo,flux1-dev] [--budgets 8,12,16,24,40] [--budget-seconds 540]

Of each model and budget (GiB): our plan, everything on the GPU, diffusers' presets, its ComponentsManager, and mmgp
where it is installed. A budget bounds what the driver shows: the allocator is held to it less the context
(`set_per_process_memory_fraction`). Each case has a process of its own: the placement, a first call, two more whose
median is quoted, and one under the tracer for the bytes. Beside it stands what is predicted for the GPU.

Weights are random, so nothing is downloaded. Without -o the file is benchmarks/results/CARD/plans.json; a case that it
holds is not run again. The summary has the ratios of our plan's seconds to the best other way that fits (limit 1.0) and
to model offload (limit 0.7 for image pipelines of few steps). `--dry` tries all of this on a virtual GPU; its figures
mean nothing, and such a file is never a result.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from apart import Apart, FailedError
from plan_cases import BUDGETS_GIB, CALLS, OURS, Case, all_cases
from plan_record import PLANS, errors_of, ratios_of
from session import Session, add_options

from profiler.errors import InputError
from profiler.units import GIB, format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable


class Plans:
    """One run of this script."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.session = Session(PLANS, options)
        self._ram_bytes = options.ram
        self._whole: dict[str, Any] = {}  # the profile of each model
        self._presets: dict[str, dict[str, Any]] = {}

    def entry(self, case: Case, limit: Callable[[], float]) -> dict[str, Any]:
        """Return the entry of a case."""
        profile = self._profile(case, limit)
        spec = self.session.spec
        found = {**case.as_json(), "output": _output(profile)}
        plan = None
        if case.way == OURS:
            promise = Apart(promise_of_ours, profile, case.budget_bytes, self._ram_bytes).result(
                seconds=limit()
            )
            plan, predicted = promise.plan, promise.figures
            if plan is None:
                return {**found, "predicted": None, "skipped": promise.why_none}
            found["plan"] = promise.record
        else:
            predicted = self._presets[case.model].get(case.way)
        done = Apart(run_case, case, plan, spec.context_bytes, self.session.stand_in)
        found |= {"predicted": predicted, **done.result(seconds=limit())}
        if found.get("measured", {}).get("fits"):
            found["errors"] = errors_of(predicted, found["measured"])
        return found

    def _profile(self, case: Case, limit: Callable[[], float]) -> Any:
        if case.model not in self._whole:
            arguments = (case.model, case.call, "model", self.session.spec)
            profile = Apart(run_without_limit, *arguments).result(seconds=limit())
            self._presets[case.model] = Apart(promises, profile).result(seconds=limit())
            self._whole[case.model] = profile
        return self._whole[case.model]


def _output(profile: Any) -> str:
    return "video" if "num_frames" in profile.call or "ideo" in profile.pipeline_class else "image"


# What runs in the other processes: torch is imported there only.


def run_without_limit(*arguments: Any) -> Any:
    """Return the profile from which plans are made."""
    import at_hand

    return at_hand.run_without_limit(*arguments)


def promises(profile: Any) -> dict[str, Any]:
    """Return what is predicted of each preset."""
    import plan_runs

    return plan_runs.promises(profile)


def promise_of_ours(*arguments: Any) -> Any:
    """Return our plan."""
    import plan_runs

    return plan_runs.promise_of_ours(*arguments)


def run_case(*arguments: Any) -> dict[str, Any]:
    """Return what a case takes."""
    import plan_runs

    return plan_runs.run(*arguments)


def told(name: str, entry: dict[str, Any]) -> str:
    """Return the line of a case."""
    for word in ("failed", "skipped"):
        if word in entry:
            return f"{name:56} {word}: {entry[word]}"
    measured = entry["measured"]
    if not measured["fits"]:
        return f"{name:56} does not fit: {measured['error'][:80]}"
    return (
        f"{name:56} {measured['steady_seconds']:.2f} s (first {measured['cold_seconds']:.2f} s), "
        f"{format_bytes(measured['device_bytes'])} on the GPU, "
        f"{format_bytes(measured['weight_bytes'])} of weights moved"
    )


def ratio_line(row: dict[str, Any]) -> str:
    """Return the line of a model and budget in the summary."""
    where = f"{row['model']:20} {row['budget_bytes'] / GIB:4g} GiB"
    if row["ours_seconds"] is None:
        return f"{where}  no plan; best of the others: {row['best'] or 'none fits'}"
    ratios = {"the best, " + (row["best"] or "none fits"): row["ours_to_best"]}
    ratios["model offload"] = row["ours_to_model_offload"]
    worded = [f"{what} {one:.2f}" if one else f"{what} -" for what, one in ratios.items()]
    return f"{where}  {row['ours_seconds']:.2f} s, to {'; to '.join(worded)}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/gpu/plans.py --models sdxl-turbo --budgets 8,12 --budget-seconds 540",
    )
    add_options(parser)
    parser.add_argument("--models", default=",".join(CALLS), help="names or folders, comma between")
    parser.add_argument(
        "--budgets", default=",".join(map(str, BUDGETS_GIB)), help="in GiB, comma between"
    )
    parser.add_argument(
        "--ram", type=parse_bytes, default=_host_bytes(), help="for plans, as 64GiB"
    )
    options = parser.parse_args(arguments)
    try:
        options.budgets_bytes = tuple(int(float(one) * GIB) for one in options.budgets.split(","))
    except ValueError:
        parser.error(f"--budgets {options.budgets}: numbers of GiB with commas between, as 8,12")
    return options


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main(arguments: list[str] | None = None) -> None:
    """Run the cases that the file lacks, print a line for each and the ratios; fail where ours is slower."""
    options = _options(arguments)
    every = all_cases(tuple(options.models.split(",")), options.budgets_bytes)
    wanted = {case.id: case for case in every if options.only in case.id}
    if options.list:
        print("\n".join(wanted))
        return
    try:
        plans = Plans(options)
        plans.session.run(
            {name: partial(plans.entry, case) for name, case in wanted.items()}, told=told
        )
    except (InputError, FailedError) as error:
        raise SystemExit(f"plans: {error}") from error
    record = plans.session.record
    print("\n".join(map(ratio_line, ratios_of(list(record["cases"].values())))))
    if not record["dry"] and record["summary"]["over"]:
        sys.exit("\n".join(record["summary"]["over"]))


if __name__ == "__main__":
    main()
