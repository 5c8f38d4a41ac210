"""Runs what needs a CUDA GPU on the stand-in: tests marked `gpu`, the scripts of `benchmarks/gpu`, `vram calibrate`.

Usage: python tests/oracle/oracle_path.py [--only PART], or `make oracle`.

All of it must get through, and what the scripts keep must be whole. Bytes that are measured must be those that are
predicted. Seconds mean nothing here: a GPU takes others than the stand-in. Exits with 4 where anything fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import oracle
import oracle_records
from oracle_environment import FOLDER, ROOT, nvidia_libraries, python_of, set_up
from oracle_side import facts_of_gpu

HERE = Path(__file__).resolve().parent
GPU = "h100-sxm"
SECONDS = 1200  # that one of them may take
MARKED = "gpu and not needs_values"
LEFT_OUT = "gpu and needs_values"
VRAM = "from profiler.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A command, and what must be true of the file that it writes."""

    command: tuple[str, ...]  # {model} for a small pipeline's folder, {file} for what is written
    problems: Callable[[Path], Iterator[str]]


SCRIPTS = {
    "validate.py": Script(
        command=(
            "benchmarks/gpu/validate.py",
            "--models",
            "{model}",
            "--only",
            "tiny",
            "-o",
            "{file}",
        ),
        problems=oracle_records.of_validation,
    ),
    "plans.py": Script(
        command=(
            "benchmarks/gpu/plans.py",
            "--models",
            "{model}",
            "--budgets",
            "1",
            "-o",
            "{file}",
        ),
        problems=oracle_records.of_plans,
    ),
    "out_of_memory.py": Script(
        command=(
            "benchmarks/gpu/out_of_memory.py",
            "--model",
            "{model}",
            "--failures",
            "6",
            "-o",
            "{file}",
        ),
        problems=oracle_records.of_failures,
    ),
    "tracer_overhead.py": Script(
        command=(
            "benchmarks/gpu/tracer_overhead.py",
            "--model",
            "{model}",
            "--pairs",
            "3",
            "--steps",
            "2",
            "-o",
            "{file}",
        ),
        problems=oracle_records.of_overhead,
    ),
    "vram calibrate": Script(
        command=("-c", VRAM, "calibrate", "--models", "sd15", "-o", "{file}"),
        problems=oracle_records.of_calibration,
    ),
}


def environment() -> dict[str, str]:
    """Return the environment variables of a process that is to see the stand-in as its GPU."""
    return {
        **oracle.environment(),
        **facts_of_gpu(GPU),
        "PYTHONPATH": os.pathsep.join((str(HERE / "every_process"), str(ROOT))),
        "LD_LIBRARY_PATH": str(nvidia_libraries(FOLDER)),  # where pynvml finds NVML
    }


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a Python command on the stand-in."""
    return subprocess.run(
        [str(python_of(FOLDER)), *command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def run_tests(folder: Path) -> Iterator[str]:
    """Run the tests marked `gpu` and say how many passed; yield what is wrong."""
    report = folder / "tests.xml"
    done = run(["-m", "pytest", "tests/gpu", "-m", MARKED, f"--junit-xml={report}"])
    if not report.exists():
        yield f"no test ran: {done.stdout[-500:]}{done.stderr[-500:]}"
        return
    cases = list(ET.parse(report).iter("testcase"))
    wrong = [case for case in cases if len(case) and case[0].tag in ("failure", "error", "skipped")]
    left = run(["-m", "pytest", "tests/gpu", "-m", LEFT_OUT, "--collect-only", "-q"]).stdout
    names = [line for line in left.splitlines() if "::" in line]
    print(f"tests marked gpu: {len(cases) - len(wrong)} of {len(cases)} passed")
    print(f"  left out, since they need values that a GPU computes: {', '.join(names)}", flush=True)
    yield from (f"{one.get('name')}: {one[0].get('message', '')[:300]}" for one in wrong)


def run_script(name: str, folder: Path, model: Path) -> Iterator[str]:
    """Run a script and yield what is wrong with what it wrote."""
    script, file = SCRIPTS[name], folder / f"{name.replace(' ', '_')}.out"
    given = {"model": model, "file": file}
    done = run([word.format(**given) for word in script.command])
    if not file.exists():
        yield f"nothing was written: {done.stdout[-500:]}{done.stderr[-1500:]}"
        return
    yield from script.problems(file)


def main() -> None:
    """Set up the environment, run everything whose name holds `--only`, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="tests, or scripts whose name holds this text")
    options = parser.parse_args()
    set_up()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.path.append(str(ROOT / "tests" / "worlds"))
        from tiny_folder import write_tiny_pipeline

        model = write_tiny_pipeline(folder / "tiny")
        for what in ("tests", *SCRIPTS):
            if options.only not in what:
                continue
            found = run_tests(folder) if what == "tests" else run_script(what, folder, model)
            problems = list(found)
            failed = failed or bool(problems)
            if what != "tests":
                print(
                    f"{what}: {'complete' if not problems else 'NOT as it should be'}", flush=True
                )
            print("".join(f"  {one}\n" for one in problems), end="", flush=True)
    if failed:
        raise SystemExit(4)


if __name__ == "__main__":
    main()
