"""Compares single operators on the virtual GPU with PyTorch's own CUDA build on a stand-in for the GPU.

Usage: python tests/oracle/oracle_operators.py [--gpu h100-sxm] [--only PART] [--show small] [--record]

A minute for all GPUs of the matrix; what was run before is not run again. Two outcomes are equal; or the same blocks
come in another order; or they differ by less than 16 KiB; or the difference matters, and the command exits with 4.
`--record` writes what the CUDA build did to `tests/virtual/recorded`, where an ordinary test compares with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

import operator_recorded
from operator_compare import KINDS, Compared, compare
from operator_recording import Outcome
from oracle import Sides, environment, set_up_sides
from oracle_cases import GPUS
from oracle_environment import ROOT

HERE = Path(__file__).resolve().parent
ASKED = (
    "constraints.txt",
    "profiler/data/hardware.toml",
    "tests/oracle/operator*.py",
    "tests/oracle/oracle_side.py",
)
FOLLOW_FROM = {
    "oracle": (*ASKED, "tests/oracle/runtime/*", "tests/oracle/oracle_values.py"),
    "predicted": (*ASKED, "profiler/**/*.py", "profiler/data/*.toml"),
}


def outcomes(sides: Sides, side: str, gpu: str) -> dict[str, Outcome]:
    """Return what every operator does on one side, run only if what it follows from was changed."""
    file = sides.results / side / f"operators_{gpu}.json"
    current = _digest(side)
    if not file.exists() or json.loads(file.read_text())["digest"] != current:
        file.parent.mkdir(parents=True, exist_ok=True)
        script = str(HERE / "operator_side.py")
        command = [sides.interpreters[side], script, side, gpu, str(file)]
        subprocess.run(
            [*command, "--digest", current],
            check=True,
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
    found = json.loads(file.read_text())["outcomes"]
    return {name: Outcome(*outcome) for name, outcome in found.items()}


def _digest(side: str) -> str:
    paths = sorted({path for pattern in FOLLOW_FROM[side] for path in ROOT.glob(pattern)})
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def report(gpu: str, compared: list[Compared], shown: tuple[str, ...]) -> str:
    """Return how many cases are of which kind, and those of the kinds to be shown."""
    counted = Counter(one.kind for one in compared)
    lines = [f"{gpu}: " + ", ".join(f"{counted[kind]} {kind}" for kind in KINDS)]
    for one in compared:
        if one.kind in shown:
            lines.append(f"  {one.name} ({one.kind})")
            lines += [
                f"    {side:9} {outcome.events[:300]}  {outcome.result[:200]}"
                for side, outcome in (("oracle", one.oracle), ("predicted", one.predicted))
            ]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=GPUS, help="this one alone")
    parser.add_argument("--only", default="", help="operators whose name holds this text")
    parser.add_argument(
        "--show", choices=KINDS[1:], default="matter", help="the least that is shown"
    )
    parser.add_argument("--torch", default="", help="a version beside the tested one, as 2.14.1")
    parser.add_argument("--record", action="store_true", help="write what the CUDA build did")
    options = parser.parse_args()
    sides = set_up_sides(options.torch)
    shown = KINDS[KINDS.index(options.show) :]
    compared = {}
    for gpu in [options.gpu] if options.gpu else GPUS:
        both = compare(*(outcomes(sides, side, gpu) for side in ("oracle", "predicted")))
        compared[gpu] = [one for one in both if options.only in one.name]
        print(report(gpu, compared[gpu], shown))
    if options.record:
        operator_recorded.write({gpu: outcomes(sides, "oracle", gpu) for gpu in GPUS})
    if any(one.kind == "matter" for both in compared.values() for one in both):
        raise SystemExit(4)


if __name__ == "__main__":
    main()
