"""Fits the constants of the cost model to published timings, and tests them on those that they were not fitted on.

Usage: python benchmarks/seconds_fit.py [--published ../shared/published/seconds.csv] [--halves 10] [--json]

Each call is run on the virtual GPU twice, with 2 and with 4 denoise steps, and what its clock was asked to do is kept:
kernels with their work, copies, calls to the driver. From that the seconds of a call of any length follow for any
constants, by a second computation of its own. Constants are fitted by least squares on the logarithm of predicted /
published (Gauss-Newton, Huber's weights), each held to its start in `profiler/data/seconds.toml` by a stated width, the
rows of one source and GPU weighing as three at most.

The test: ten times, half of the sources at random are fitted on, and the other half is predicted. The last line is what
all rows together give: `fitted` in `seconds.toml`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tomllib
import warnings
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np

from benchmarks.seconds_rows import Row, rows_of, run, spec_of
from benchmarks.seconds_tape import ALLOCATE, D2H, EMPTY, H2D, KERNEL, RELEASE, TapeRecorder
from profiler.gpus.cost_model import CostModel, cost_model, group_of

if TYPE_CHECKING:
    from profiler.gpus.cost_model import Work

FEW, MANY = 2, 4
WIDTHS = {
    "launch_seconds": 0.2,
    "empty_cache_seconds": 0.4,
    "convolution": 0.1,
    "single": 0.1,
    "narrow_heads": 0.1,
    "product": 0.08,
    "attention": 0.2,
    "h2d_bytes_per_second": 0.15,
    "d2h_bytes_per_second": 0.1,
}
"""How far each constant may lie from its start: a standard deviation of its logarithm."""
OF_A_GROUP, OF_A_LINK = ("product", "attention"), ("h2d_bytes_per_second",)
NOISE, HUBER, ROWS_OF_A_SOURCE = 0.15, 1.5, 3
WITHIN = math.log(1.2)

Name = tuple[str, str]
"""A constant, and the group or link that it is for; "" for all."""


class Case:
    """One row, and what its calls asked of the clock."""

    def __init__(self, row: Row, folder: Path) -> None:
        self.row, self.spec = row, spec_of(row)
        rates = self.spec.flops_per_second
        self.group = group_of(self.spec.generation, rates)
        self._works: dict[Work, int] = {}
        self._tapes = [self._tape(steps, folder) for steps in (FEW, MANY)]

    def uses(self, name: Name) -> bool:
        """Tell whether a constant plays a part in it."""
        constant, where = name
        moves = self.row.kind != "resident"
        if constant in OF_A_LINK:
            return moves and where == self.spec.link
        if constant in OF_A_GROUP:
            return where == self.group
        return moves or constant not in ("empty_cache_seconds", "d2h_bytes_per_second")

    def seconds(self, model: CostModel) -> float:
        """Return the predicted seconds of the row."""
        spec = self.spec
        kernels = np.array(
            [
                model.kernel_seconds(work, spec.flops_per_second, spec.memory_bytes_per_second)
                for work in self._works
            ]
        )
        few, many = (
            _played(tape, kernels, model, spec.pinned_bytes_per_second) for tape in self._tapes
        )
        step = (many - few) / (MANY - FEW)
        return step if self.row.is_step else many + (self.row.steps - MANY) * step

    def _tape(self, steps: int, folder: Path) -> np.ndarray:
        recorder = TapeRecorder(self._works)
        run(self.row, steps, folder, replay=False, watching=recorder.watching)
        return np.array(recorder.tape)


def _played(tape: np.ndarray, kernels: np.ndarray, model: CostModel, pinned_rate: float) -> float:
    """Return the seconds of a call: host and stream, where a copy that waits brings both together.

    Between two waits the stream ends at the latest of "kernel i cannot start before its launch, and those after it
    follow without a gap", which is a maximum over sums.
    """
    what, value, pinned, waits = tape[:, 0], tape[:, 1], tape[:, 2] > 0, tape[:, 3] > 0
    host, work = np.zeros(len(tape)), np.zeros(len(tape))
    for kind, seconds in (
        (KERNEL, model.launch_seconds),
        (H2D, model.copy_seconds),
        (D2H, model.copy_seconds),
        (ALLOCATE, model.allocate_seconds),
        (RELEASE, model.release_seconds),
        (EMPTY, model.empty_cache_seconds),
    ):
        host[what == kind] = seconds
    ours = what == KERNEL
    work[ours] = np.append(kernels, 0.0)[value[ours].astype(int)]
    for kind, rate in ((H2D, model.h2d_bytes_per_second), (D2H, model.d2h_bytes_per_second)):
        here = what == kind
        work[here] = value[here] / np.where(pinned[here], pinned_rate, rate)
    launched, worked = np.cumsum(host), np.cumsum(work)
    starts = np.append(0, np.flatnonzero(waits) + 1)
    starts = starts[starts < len(tape)]
    latest = np.maximum.reduceat(launched - (worked - work), starts)
    ends = np.append(starts[1:], len(tape)) - 1
    host_before, work_before = launched[starts] - host[starts], worked[starts] - work[starts]
    at_host = at_stream = 0.0
    for late, passed, busy, wait in zip(
        (latest - host_before + work_before).tolist(),
        (launched[ends] - host_before).tolist(),
        (worked[ends] - work_before).tolist(),
        waits[ends].tolist(),
        strict=True,
    ):
        at_stream = max(at_stream, at_host + late) + busy
        at_host += passed
        if wait:
            at_host = at_stream = max(at_host, at_stream)
    return max(at_host, at_stream)


class Constants:
    """The constants that are fitted, at their starts or elsewhere."""

    def __init__(self, cases: list[Case]) -> None:
        self._facts = tomllib.loads(Path("profiler/data/seconds.toml").read_text(encoding="utf-8"))
        groups = sorted({case.group for case in cases})
        links = sorted({case.spec.link for case in cases})
        self.names: list[Name] = [
            (constant, where)
            for constant in WIDTHS
            for where in (
                groups if constant in OF_A_GROUP else links if constant in OF_A_LINK else [""]
            )
        ]
        self.starts = {name: self._start(name) for name in self.names}

    def _start(self, name: Name) -> float:
        constant, where = name
        facts = self._facts
        if constant in OF_A_GROUP:
            return facts["groups"][where][constant]["start"]
        if constant in OF_A_LINK:
            return facts["pageable"]["h2d_gb_per_second"][where]["start"] * 1e9
        if constant == "d2h_bytes_per_second":
            return facts["pageable"]["d2h_gb_per_second"]["start"] * 1e9
        return (facts["host"] | facts["kernels"])[constant]["start"]

    def model(self, case: Case, values: dict[Name, float]) -> CostModel:
        """Return the cost model of a case's GPU with these values."""
        spec = case.spec
        known = cost_model(spec.generation, spec.flops_per_second, spec.link)
        changes = {}
        for constant in WIDTHS:
            where = (
                case.group if constant in OF_A_GROUP else spec.link if constant in OF_A_LINK else ""
            )
            changes[constant] = values[constant, where]
        return replace(known, **changes)

    def fit(self, cases: list[Case], rounds: int = 6) -> dict[Name, float]:
        """Return the values that these cases ask for."""
        values = dict(self.starts)
        names = [name for name in self.names if any(case.uses(name) for case in cases)]
        count = Counter((case.row.source, case.row.gpu) for case in cases)
        weights = np.array(
            [
                1 / math.sqrt(max(1, count[case.row.source, case.row.gpu] / ROWS_OF_A_SOURCE))
                for case in cases
            ]
        )
        widths = np.array([WIDTHS[constant] for constant, _ in names])
        for _ in range(rounds):
            misses = np.array([self.miss(case, values) for case in cases])
            slopes = np.zeros((len(cases), len(names)))
            for column, name in enumerate(names):
                moved = values | {name: values[name] * math.exp(0.03)}
                for line, case in enumerate(cases):
                    if case.uses(name):
                        slopes[line, column] = (self.miss(case, moved) - misses[line]) / 0.03
            trust = np.minimum(1, HUBER * NOISE / np.maximum(np.abs(misses), 1e-9))
            scale = weights / NOISE * np.sqrt(trust)
            away = np.array([math.log(values[name] / self.starts[name]) for name in names])
            left = np.vstack([slopes * scale[:, None], np.diag(1 / widths)])
            right = np.concatenate([-misses * scale, -away / widths])
            steps = np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -0.4, 0.4)
            for name, step in zip(names, steps, strict=True):
                values[name] *= math.exp(step)
            if np.abs(steps).max() < 0.02:
                break
        return values

    def miss(self, case: Case, values: dict[Name, float]) -> float:
        """Return the logarithm of predicted / published."""
        return math.log(case.seconds(self.model(case, values)) / case.row.seconds)


def halves(cases: list[Case], constants: Constants, count: int) -> dict[str, Any]:
    """Return how well one half of the sources predicts the other, by mode and by GPU."""
    sources = sorted({case.row.source for case in cases})
    chance = random.Random(0)  # noqa: S311  # the same halves each time
    by_mode, by_gpu = defaultdict(list), defaultdict(list)
    for _ in range(count):
        fitted_on = set(chance.sample(sources, len(sources) // 2))
        values = constants.fit([case for case in cases if case.row.source in fitted_on])
        for case in cases:
            if case.row.source not in fitted_on:
                miss = abs(constants.miss(case, values))
                by_mode[case.row.kind].append(miss)
                by_gpu[case.row.gpu].append(miss)
    rows = Counter(case.row.gpu for case in cases)
    return {
        "modes": {mode: _summary(misses) for mode, misses in by_mode.items()},
        "gpus": {
            gpu: {"rows": rows[gpu], **_summary(misses)} for gpu, misses in sorted(by_gpu.items())
        },
    }


def _summary(misses: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(misses), 3),
        "within_20_percent": round(sum(miss < WITHIN for miss in misses) / len(misses), 3),
    }


def main() -> None:
    """Print the test on halves, and the constants of all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, default=Path("../shared/published/seconds.csv"))
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not options.published.is_file():
        parser.error(f"no table of published seconds at {options.published}")
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    rows, _ = rows_of(options.published)
    cases = [Case(row, options.published.parent.parent / "model_configs") for row in rows]
    constants = Constants(cases)
    tested = halves(cases, constants, options.halves)
    values = constants.fit(cases)
    fitted = {" ".join(name).strip(): float(f"{value:.3g}") for name, value in values.items()}
    if options.json:
        print(json.dumps({"rows": len(rows), **tested, "constants": fitted}, indent=2))
        return
    for name, found in tested["modes"].items():
        print(
            f"{name:12} median {found['median']:.1%}, within 20 %: {found['within_20_percent']:.0%}"
        )
    for name, found in tested["gpus"].items():
        print(f"  {name:12} {found['rows']:3} rows, median {found['median']:.1%}")
    for name, value in fitted.items():
        print(f"{name:40} {value:g}")


if __name__ == "__main__":
    main()
