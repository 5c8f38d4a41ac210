"""Compares the virtual GPU with PyTorch's own CUDA build on a stand-in for the GPU, over the whole matrix of cases.

Usage: python tests/oracle/oracle.py [--only PART] [--torch 2.14.1] [--jobs 2] [--budget-seconds 3000] [--again], or
`make oracle`.

Needs no GPU: a machine with gcc, 5 GB of disk and, the first time, the network. A case's figures are kept below
`.venv-oracle/results` and asked again only if what they follow from was changed, so a run that was cut off goes on,
and a change of the virtual GPU runs that side alone. Exits with 4 where any figure differs.

`--torch` compares with another version, in an environment of its own. The virtual GPU then runs in that environment,
too, on the CUDA build: which build it runs on changes no figure (`benchmarks/cuda_build.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle_cases import GPUS, Case, cases
from oracle_compare import Comparison, compare, report
from oracle_environment import ROOT, python_of, set_up

HERE = Path(__file__).resolve().parent
KEPT = ROOT / "benchmarks" / "results" / "oracle.json"
# What a side's figures follow from, below the root of the repository.
BUILT = (
    "constraints.txt",
    "profiler/pipelines/*.py",
    "profiler/data/catalogue/*.toml",
    "profiler/data/hardware.toml",
    "profiler/libraries/modes.py",
    "profiler/libraries/placing.py",
    "tests/oracle/oracle_side.py",
)
FOLLOW_FROM = {
    "oracle": (*BUILT, "tests/oracle/runtime/*", "tests/oracle/oracle_values.py"),
    "predicted": (*BUILT, "profiler/**/*.py"),
}
BATCH = 12  # cases of one process


def digest(side: str) -> str:
    """Return a digest of the files that the side's figures follow from."""
    paths = sorted({path for pattern in FOLLOW_FROM[side] for path in ROOT.glob(pattern)})
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


@dataclass(frozen=True)
class Sides:
    """Who runs both sides, and where their figures are kept."""

    interpreters: dict[str, str]
    results: Path
    digests: dict[str, str]  # of what the figures follow from

    def file_of(self, side: str, case: Case) -> Path:
        """Return the file of a case's figures."""
        return self.results / side / f"{case.name.replace(' ', '_')}.json"

    def read(self, side: str, case: Case) -> dict[str, Any]:
        """Return the figures of a case, empty if it did not run."""
        file = self.file_of(side, case)
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def batches(self, chosen: list[Case]) -> Iterator[tuple[str, list[Case]]]:
        """Yield the side and the cases of each process that is to be run: of one GPU, whose facts torch keeps."""
        for gpu in GPUS:
            alike = [case for case in chosen if case.gpu == gpu]
            for start in range(0, len(alike), BATCH):
                for side, current in self.digests.items():
                    batch = alike[start : start + BATCH]
                    waiting = [
                        one for one in batch if self.read(side, one).get("digest") != current
                    ]
                    if waiting:
                        yield side, waiting

    def begin(self, side: str, batch: list[Case]) -> subprocess.Popen[bytes]:
        """Start the process that runs a batch."""
        folder = self.results / side
        folder.mkdir(parents=True, exist_ok=True)
        command = [self.interpreters[side], str(HERE / "oracle_side.py"), side, str(folder)]
        command += [case.name for case in batch] + ["--digest", self.digests[side]]
        return subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)


def set_up_sides(torch: str = "") -> Sides:
    """Return both sides for a version of torch, the tested one if none is given; make what is missing."""
    folder = set_up(torch)
    oracle = str(python_of(folder))
    return Sides(
        interpreters={"oracle": oracle, "predicted": oracle if torch else sys.executable},
        results=folder / "results",
        digests={side: digest(side) for side in FOLLOW_FROM},
    )


def environment() -> dict[str, str]:
    """Return the environment variables that a side runs with."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "VRAM_CALIBRATION": "",  # whatever was measured on this machine
        "OMP_NUM_THREADS": "1",
    }


def run(sides: Sides, chosen: list[Case], jobs: int, budget_seconds: float) -> bool:
    """Run what is missing, `jobs` processes at a time; return whether all of it was started."""
    deadline = time.monotonic() + budget_seconds
    running: list[subprocess.Popen[bytes]] = []
    try:
        for side, batch in sides.batches(chosen):
            while sum(one.poll() is None for one in running) >= jobs:
                time.sleep(0.2)
            if time.monotonic() > deadline:
                return False
            running.append(sides.begin(side, batch))
    finally:
        for one in running:
            one.wait()
    return True


def keep(found: Comparison) -> None:
    """Write the comparison to where it is kept, a case of the figures a line."""
    libraries = ("torch", "diffusers", "accelerate", "transformers")
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in libraries}
    content = {"versions": versions, **found.as_json()}
    figures = content.pop("figures")
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(rows)}" for name, rows in figures.items()
    )
    text = json.dumps(content, indent=1).removesuffix("\n}")
    KEPT.write_text(f'{text},\n "figures": {{\n{lines}\n }}\n}}\n', encoding="utf-8")


def main() -> None:
    """Set up the environment, run what is missing and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--torch", default="", help="a version beside the tested one, as 2.14.1")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--budget-seconds", type=float, default=3000)
    parser.add_argument("--again", action="store_true", help="run also what is there")
    options = parser.parse_args()
    sides = set_up_sides(options.torch)
    chosen = [case for case in cases() if options.only in case.name]
    if options.again:
        for case in chosen:
            for side in sides.digests:
                sides.file_of(side, case).unlink(missing_ok=True)
    complete = run(sides, chosen, options.jobs, options.budget_seconds)
    pairs = [(sides.read("oracle", case), sides.read("predicted", case)) for case in chosen]
    found = compare(pair for pair in pairs if all(pair))
    print(report(found))
    if not options.only and not options.torch:
        keep(found)
    if not complete:
        raise SystemExit("the time is over: run it again, and it goes on")
    if found.differences or found.ended_otherwise:
        raise SystemExit(4)


if __name__ == "__main__":
    main()
