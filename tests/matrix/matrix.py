"""Tries other releases of PyTorch's and Hugging Face's libraries, and writes docs/compatibility.md.

Usage: python tests/matrix/matrix.py [--only PART_OF_A_NAME]

Each stack is an environment of its own below `.venv-matrix`, made once: first the libraries as their users have them,
then this package, which must not change any of their versions. In it run the tests of `CORE`, and `figures.py`, whose
figures are compared with those of the tested set in `constraints.txt`. Where the libraries do something else, a fact
in `profiler/libraries/releases.py` says what and since when.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any, NamedTuple

from profiler.atomic import write_text
from profiler.libraries.releases import FACTS, TESTED, numbers

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-matrix"
PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
FIGURES = ROOT / "tests" / "matrix" / "figures.py"
CORE = (
    "tests/applying/test_apply.py",
    "tests/applying/test_verify.py",
    "tests/planning/test_replay_inside.py",
    "tests/planning/test_repeated_calls.py",
    "tests/tracing/test_tracer.py",
    "tests/virtual/test_lending.py",
)
"""The tests of what touches the libraries' insides: hooks, the tracer, twins, plans."""

_INTRODUCTION = """\
Written by `make matrix`: each stack in an environment of its own, without a GPU. The package is installed into it
last, and must change no version. `tests` are those of hooks, tracer, twins and plans; `figures` are peaks allocated and
reserved, bytes copied each way and the number of events of small pipelines in four modes, beside those of the tested
set ({pins})."""

TOOLS = ("pytest", "hypothesis", "peft", "ftfy", "sentencepiece", "protobuf")


class Stack(NamedTuple):
    """One set of releases."""

    name: str
    who: str
    pins: tuple[str, ...]


STACKS = (
    Stack(
        "oldest",
        "the oldest of each",
        ("torch==2.13.0", "diffusers==0.37.0", "accelerate==1.12.0", "transformers==4.57.6"),
    ),
    Stack(
        "early-5",
        "transformers 5.0, whose T5 keeps float32 in bfloat16",
        ("torch==2.13.0", "diffusers==0.37.1", "accelerate==1.13.0", "transformers==5.0.0"),
    ),
    Stack(
        "middle",
        "the middle of 2026",
        ("torch==2.13.0", "diffusers==0.39.0", "accelerate==1.14.0", "transformers==5.10.4"),
    ),
    Stack(
        "mixed",
        "an old diffusers beside a new transformers",
        ("torch==2.13.0", "diffusers==0.37.1", "accelerate==1.15.0", "transformers==5.19.0"),
    ),
    Stack(
        "before",
        "the release before",
        ("torch==2.13.0", "diffusers==0.41.0", "accelerate==1.15.0", "transformers==5.22.2"),
    ),
    Stack(
        "newest",
        "the newest of each that a CPU build of torch is there for",
        ("torch==2.13.0", "diffusers==0.42.1", "accelerate==1.15.0", "transformers==5.24.0"),
    ),
)


def python_of(stack: Stack) -> Path:
    """Return the interpreter of a stack's environment, which is made if it is not there."""
    folder = FOLDER / stack.name
    python, done = folder / "bin" / "python", folder / "done.json"
    wanted = {"pins": stack.pins, "tools": TOOLS}
    if done.is_file() and json.loads(done.read_text()).get("wanted") == json.loads(
        json.dumps(wanted)
    ):
        return python
    venv.create(folder, with_pip=True, clear=True)
    _pip(python, stack.pins[0])  # alone, so that nothing after it asks for another build
    _pip(python, *stack.pins, *TOOLS)
    before = _versions(python)
    _pip(python, "--editable", str(ROOT))
    after = _versions(python)
    changed = {
        name: (one, after.get(name)) for name, one in before.items() if after.get(name) != one
    }
    write_text(done, json.dumps({"wanted": wanted, "changed": changed}))
    return python


def _pip(python: Path, *what: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what]
    subprocess.run(command, check=True, cwd=ROOT)


def _versions(python: Path) -> dict[str, str]:
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {one["name"]: one["version"] for one in json.loads(listed.stdout)}


def tried(stack: Stack) -> dict[str, Any]:
    """Return what a stack's tests and figures came to."""
    python = python_of(stack)
    started = time.perf_counter()
    tests = _ran(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CORE)
    figures = _ran(python, str(FIGURES))
    last = figures.stdout.strip().splitlines()[-1:] or ["{}"]
    done = json.loads((FOLDER / stack.name / "done.json").read_text())
    return {
        "name": stack.name,
        "who": stack.who,
        "pins": stack.pins,
        "changed_by_installing": done["changed"],
        "passed": _count(tests.stdout, "passed"),
        "failed": _count(tests.stdout, "failed") + _count(tests.stdout, "error"),
        "failures": sorted(re.findall(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE)),
        "figures": json.loads(last[0]) if figures.returncode == 0 else {},
        "error": "" if figures.returncode == 0 else figures.stderr.strip().splitlines()[-1],
        "seconds": round(time.perf_counter() - started),
    }


def _ran(python: Path, *what: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(python), *what], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _count(text: str, word: str) -> int:
    found = re.findall(rf"(\d+) {word}s?\b", text)
    return int(found[-1]) if found else 0


def facts_of(pins: tuple[str, ...]) -> list[str]:
    """Return what the libraries of a stack do otherwise than those of the tested set."""
    versions = dict(pin.split("==") for pin in pins)
    newest = dict(pin.split("==") for pin in _tested_pins())
    return [
        f"{fact.library} {fact.since}: {fact.what}"
        for fact in FACTS
        if (numbers(versions[fact.library]) < numbers(fact.since))
        != (numbers(newest[fact.library]) < numbers(fact.since))
    ]


def _tested_pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.partition("==")[0] in {one.library for one in TESTED}]


def page(reference: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Return docs/compatibility.md."""
    text = [
        "# Releases that were tried",
        "",
        _INTRODUCTION.format(pins=", ".join(_tested_pins())),
        "",
        "| stack | torch | diffusers | accelerate | transformers | versions changed | tests | figures equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        versions = dict(pin.split("==") for pin in one["pins"])
        shown = " | ".join(
            versions[name] for name in ("torch", "diffusers", "accelerate", "transformers")
        )
        same = sum(one["figures"].get(name) == figure for name, figure in reference.items())
        passed = f"{one['passed']} passed" + (f", {one['failed']} failed" if one["failed"] else "")
        changed = len(one["changed_by_installing"])
        text.append(
            f"| {one['name']}: {one['who']} | {shown} | {changed} | {passed} | {same} of {len(reference)} |"
        )
    text += ["", "## What differs", ""]
    for one in results:
        differing = {n: f for n, f in reference.items() if one["figures"].get(n) != f}
        if not differing and not one["failures"]:
            continue
        text += [f"### {one['name']}", ""]
        text += [f"- {fact}" for fact in facts_of(tuple(one["pins"]))]
        text += [f"- failed: `{failure}`" for failure in one["failures"]]
        if one["error"]:
            text.append(f"- the figures failed: {one['error']}")
        for name, figure in differing.items():
            text.append(f"- {name}: {one['figures'].get(name)}, the tested set {figure}")
        text.append("")
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    """Try the stacks, and fail where a test does or a version was changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="stacks whose name contains this")
    asked = parser.parse_args()
    own = _ran(Path(sys.executable), str(FIGURES))
    own.check_returncode()
    reference = json.loads(own.stdout.strip().splitlines()[-1])
    known = json.loads(RESULTS.read_text())["stacks"] if RESULTS.is_file() else []
    results = {one["name"]: one for one in known if asked.only}
    for stack in STACKS:
        if asked.only in stack.name:
            results[stack.name] = one = tried(stack)
            print(
                stack.name,
                one["passed"],
                "passed,",
                one["failed"],
                "failed",
                one["error"],
                flush=True,
            )
    ordered = [results[stack.name] for stack in STACKS if stack.name in results]
    write_text(RESULTS, json.dumps({"reference": reference, "stacks": ordered}, indent=1) + "\n")
    write_text(PAGE, page(reference, ordered))
    bad = [
        one["name"]
        for one in ordered
        if one["failed"] or one["error"] or one["changed_by_installing"]
    ]
    if bad:
        sys.exit(f"not as it should be: {', '.join(bad)}")


if __name__ == "__main__":
    main()
